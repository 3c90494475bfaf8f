"""The layouts of SegFormer checkpoints: transformers' new and older names, NVIDIA's, mmsegmentation's; back to transformers."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from proscale.checkpoints.packed_matrices import Packing, pack_rows, split_rows
from proscale.checkpoints.rename_tensors import inverted, rename
from proscale.errors import CheckpointError

_OUR_STAGE, _OUR_BLOCK = "backbone.stages.{i}.", "backbone.stages.{i}.blocks.{j}."
DROPPED = (r".*\.num_batches_tracked", r"auxiliary_head\..*", r"data_preprocessor\.(mean|std)", r"ema_\w+")
"""The last are mmcv's moving averages, under names without dots."""

_STAGE, _BLOCK = "segformer.stages.{i}.", "segformer.stages.{i}.blocks.{j}."
TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (_STAGE + "patch_embeddings.proj.{leaf}", _OUR_STAGE + "patch_embedding.projection.{leaf}"),
    (_STAGE + "patch_embeddings.layer_norm.{leaf}", _OUR_STAGE + "patch_embedding.norm.{leaf}"),
    (_STAGE + "layer_norm.{leaf}", _OUR_STAGE + "norm.{leaf}"),
    (_BLOCK + "layernorm_before.{leaf}", _OUR_BLOCK + "norm1.{leaf}"),
    (_BLOCK + "layernorm_after.{leaf}", _OUR_BLOCK + "norm2.{leaf}"),
    (_BLOCK + "attention.q_proj.{leaf}", _OUR_BLOCK + "attention.query.{leaf}"),
    (_BLOCK + "attention.kv_proj.{leaf}", _OUR_BLOCK + "attention.key_value.{leaf}"),
    (_BLOCK + "attention.o_proj.{leaf}", _OUR_BLOCK + "attention.projection.{leaf}"),
    (_BLOCK + "attention.sequence_reduction.sequence_reduction.{leaf}", _OUR_BLOCK + "attention.reduction_conv.{leaf}"),
    (_BLOCK + "attention.sequence_reduction.layer_norm.{leaf}", _OUR_BLOCK + "attention.reduction_norm.{leaf}"),
    (_BLOCK + "mlp.fc{k}.{leaf}", _OUR_BLOCK + "mlp.linear{k}.{leaf}"),
    (_BLOCK + "mlp.dwconv.dwconv.{leaf}", _OUR_BLOCK + "mlp.conv.{leaf}"),
    ("decode_head.linear_projections.{i}.proj.{leaf}", "head.levels.{i}.{leaf}"),
    ("decode_head.linear_fuse.weight", "head.fuse.conv.weight"),
    ("decode_head.batch_norm.{leaf}", "head.fuse.norm.{leaf}"),
    ("decode_head.classifier.{leaf}", "head.classifier.{leaf}"),
)
TRANSFORMERS_PACKINGS: tuple[Packing, ...] = (
    (_BLOCK + "attention.kv_proj.{leaf}", (_BLOCK + "attention.k_proj.{leaf}", _BLOCK + "attention.v_proj.{leaf}")),
)

_HUB, _HUB_BLOCK = "segformer.encoder.", "segformer.encoder.block.{i}.{j}."
_HUB_SELF = _HUB_BLOCK + "attention.self."
HUB: tuple[tuple[str, str], ...] = (
    (_HUB + "patch_embeddings.{i}.proj.{leaf}", _OUR_STAGE + "patch_embedding.projection.{leaf}"),
    (_HUB + "patch_embeddings.{i}.layer_norm.{leaf}", _OUR_STAGE + "patch_embedding.norm.{leaf}"),
    (_HUB + "layer_norm.{i}.{leaf}", _OUR_STAGE + "norm.{leaf}"),
    (_HUB_BLOCK + "layer_norm_{k}.{leaf}", _OUR_BLOCK + "norm{k}.{leaf}"),
    (_HUB_BLOCK + "attention.self.query.{leaf}", _OUR_BLOCK + "attention.query.{leaf}"),
    (_HUB_BLOCK + "attention.self.key_value.{leaf}", _OUR_BLOCK + "attention.key_value.{leaf}"),
    (_HUB_BLOCK + "attention.output.dense.{leaf}", _OUR_BLOCK + "attention.projection.{leaf}"),
    (_HUB_BLOCK + "attention.self.sr.{leaf}", _OUR_BLOCK + "attention.reduction_conv.{leaf}"),
    (_HUB_BLOCK + "attention.self.layer_norm.{leaf}", _OUR_BLOCK + "attention.reduction_norm.{leaf}"),
    (_HUB_BLOCK + "mlp.dense{k}.{leaf}", _OUR_BLOCK + "mlp.linear{k}.{leaf}"),
    (_HUB_BLOCK + "mlp.dwconv.dwconv.{leaf}", _OUR_BLOCK + "mlp.conv.{leaf}"),
    ("decode_head.linear_c.{i}.proj.{leaf}", "head.levels.{i}.{leaf}"),
    ("decode_head.linear_fuse.weight", "head.fuse.conv.weight"),
    ("decode_head.batch_norm.{leaf}", "head.fuse.norm.{leaf}"),
    ("decode_head.classifier.{leaf}", "head.classifier.{leaf}"),
)
HUB_PACKINGS: tuple[Packing, ...] = (
    (
        _HUB_BLOCK + "attention.self.key_value.{leaf}",
        (_HUB_BLOCK + "attention.self.key.{leaf}", _HUB_BLOCK + "attention.self.value.{leaf}"),
    ),
)


def _nvidia(stage: int) -> tuple[tuple[str, str], ...]:
    block, ours, our_block = f"backbone.block{stage + 1}.{{j}}.", f"backbone.stages.{stage}.", f"backbone.stages.{stage}.blocks.{{j}}."
    return (
        (f"backbone.patch_embed{stage + 1}.proj.{{leaf}}", ours + "patch_embedding.projection.{leaf}"),
        (f"backbone.patch_embed{stage + 1}.norm.{{leaf}}", ours + "patch_embedding.norm.{leaf}"),
        (f"backbone.norm{stage + 1}.{{leaf}}", ours + "norm.{leaf}"),
        (block + "norm{k}.{leaf}", our_block + "norm{k}.{leaf}"),
        (block + "attn.q.{leaf}", our_block + "attention.query.{leaf}"),
        (block + "attn.kv.{leaf}", our_block + "attention.key_value.{leaf}"),
        (block + "attn.proj.{leaf}", our_block + "attention.projection.{leaf}"),
        (block + "attn.sr.{leaf}", our_block + "attention.reduction_conv.{leaf}"),
        (block + "attn.norm.{leaf}", our_block + "attention.reduction_norm.{leaf}"),
        (block + "mlp.fc{k}.{leaf}", our_block + "mlp.linear{k}.{leaf}"),
        (block + "mlp.dwconv.dwconv.{leaf}", our_block + "mlp.conv.{leaf}"),
        (f"decode_head.linear_c{stage + 1}.proj.{{leaf}}", f"head.levels.{stage}.{{leaf}}"),
    )


NVIDIA: tuple[tuple[str, str], ...] = (
    *(entry for stage in range(4) for entry in _nvidia(stage)),
    ("decode_head.linear_fuse.conv.weight", "head.fuse.conv.weight"),
    ("decode_head.linear_fuse.bn.{leaf}", "head.fuse.norm.{leaf}"),
    ("decode_head.linear_pred.{leaf}", "head.classifier.{leaf}"),
)

_MMSEG, _MMSEG_BLOCK = "backbone.layers.{i}.", "backbone.layers.{i}.1.{j}."
MMSEG: tuple[tuple[str, str], ...] = (
    (_MMSEG + "0.projection.{leaf}", _OUR_STAGE + "patch_embedding.projection.{leaf}"),
    (_MMSEG + "0.norm.{leaf}", _OUR_STAGE + "patch_embedding.norm.{leaf}"),
    (_MMSEG + "2.{leaf}", _OUR_STAGE + "norm.{leaf}"),
    (_MMSEG_BLOCK + "norm{k}.{leaf}", _OUR_BLOCK + "norm{k}.{leaf}"),
    (_MMSEG_BLOCK + "attn.query.{leaf}", _OUR_BLOCK + "attention.query.{leaf}"),
    (_MMSEG_BLOCK + "attn.key_value.{leaf}", _OUR_BLOCK + "attention.key_value.{leaf}"),
    (_MMSEG_BLOCK + "attn.attn.out_proj.{leaf}", _OUR_BLOCK + "attention.projection.{leaf}"),
    (_MMSEG_BLOCK + "attn.sr.{leaf}", _OUR_BLOCK + "attention.reduction_conv.{leaf}"),
    (_MMSEG_BLOCK + "attn.norm.{leaf}", _OUR_BLOCK + "attention.reduction_norm.{leaf}"),
    (_MMSEG_BLOCK + "ffn.layers.0.{leaf}", _OUR_BLOCK + "mlp.linear1.{leaf}"),
    (_MMSEG_BLOCK + "ffn.layers.1.{leaf}", _OUR_BLOCK + "mlp.conv.{leaf}"),
    (_MMSEG_BLOCK + "ffn.layers.4.{leaf}", _OUR_BLOCK + "mlp.linear2.{leaf}"),
    ("decode_head.convs.{i}.conv.weight", "head.levels.{i}.conv.weight"),
    ("decode_head.convs.{i}.bn.{leaf}", "head.levels.{i}.norm.{leaf}"),
    ("decode_head.fusion_conv.conv.weight", "head.fuse.conv.weight"),
    ("decode_head.fusion_conv.bn.{leaf}", "head.fuse.norm.{leaf}"),
    ("decode_head.conv_seg.{leaf}", "head.classifier.{leaf}"),
)


def segformer_layout(names: Collection[str]) -> str | None:
    """`transformers`, `transformers, older names`, `nvidia` or `mmsegmentation`; None: no SegFormer."""
    marks = {
        "segformer.stages.0.patch_embeddings.proj.weight": "transformers",
        "segformer.encoder.patch_embeddings.0.proj.weight": "transformers, older names",
        "backbone.patch_embed1.proj.weight": "nvidia",
        "backbone.layers.0.1.0.attn.attn.in_proj_weight": "mmsegmentation",
    }
    return next((layout for mark, layout in marks.items() if mark in names), None)


def from_segformer(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A SegFormer's tensors under our names. Args: layout: of `segformer_layout`.

    Raises:
        CheckpointError: names that are not SegFormer's, or a head that is not there.
    """
    if not any(name.startswith("decode_head.") for name in state):
        raise CheckpointError("this is SegFormer's backbone alone, such as a classifier (MiT): its decode_head is missing")
    if layout == "transformers":
        return rename(pack_rows(state, TRANSFORMERS_PACKINGS), TRANSFORMERS, DROPPED)
    if layout == "transformers, older names":
        return rename(pack_rows(state, HUB_PACKINGS), HUB, DROPPED)
    if layout == "nvidia":
        # Its classifier is linear_pred; the base class's is made, saved and never used.
        return rename(state, NVIDIA, (*DROPPED, r"decode_head\.conv_seg\..*"))
    return rename(_from_mmseg(state), MMSEG, DROPPED)


def to_transformers_segformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the names that transformers saves.

    Raises:
        CheckpointError: lists what its SegFormer has no place for, as mmsegmentation's head.
    """
    named = split_rows(rename(state, inverted(TRANSFORMERS)), TRANSFORMERS_PACKINGS)
    return named | {"decode_head.batch_norm.num_batches_tracked": torch.tensor(0)}


def _from_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Packed q, k, v split in two, and linear layers that are written as 1x1 convolutions."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attn.attn.in_proj_" in name:
            prefix, leaf = name.split("attn.in_proj_")
            rows = tensor.shape[0] // 3
            out[f"{prefix}query.{leaf}"], out[f"{prefix}key_value.{leaf}"] = tensor[:rows], tensor[rows:]
        elif name.endswith((".ffn.layers.0.weight", ".ffn.layers.4.weight")) and tensor.ndim == 4:
            out[name] = tensor[:, :, 0, 0]
        else:
            out[name] = tensor
    return out
