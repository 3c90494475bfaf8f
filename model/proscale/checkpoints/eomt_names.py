"""The layouts of EoMT checkpoints: transformers' two classes (DINOv2, DINOv3) and the authors' own; back to transformers."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from proscale.checkpoints.packed_matrices import Packing, pack_rows, split_rows
from proscale.checkpoints.rename_tensors import inverted, rename
from proscale.checkpoints.strict_loading import listed
from proscale.config import EomtModelConfig
from proscale.errors import CheckpointError

_BLOCK, _OUR_BLOCK = "layers.{i}.", "backbone.blocks.{i}."
_HEADS: tuple[tuple[str, str], ...] = (
    ("query.weight", "queries"),
    ("layernorm.{leaf}", "backbone.norm.{leaf}"),
    ("class_predictor.{leaf}", "class_head.{leaf}"),
    *((f"mask_head.fc{i + 1}.{{leaf}}", f"mask_head.{i}.{{leaf}}") for i in range(3)),
    ("upscale_block.block.{i}.conv1.{leaf}", "upscale.{i}.expand.{leaf}"),
    ("upscale_block.block.{i}.conv2.{leaf}", "upscale.{i}.conv.{leaf}"),
    ("upscale_block.block.{i}.layernorm2d.{leaf}", "upscale.{i}.norm.{leaf}"),
)
_BLOCKS: tuple[tuple[str, str], ...] = (
    ("embeddings.cls_token", "backbone.class_token"),
    ("embeddings.register_tokens", "backbone.registers"),
    (_BLOCK + "norm{k}.{leaf}", _OUR_BLOCK + "norm{k}.{leaf}"),
    (_BLOCK + "attention.qkv.{leaf}", _OUR_BLOCK + "attention.qkv.{leaf}"),
    (_BLOCK + "layer_scale{k}.lambda1", _OUR_BLOCK + "scale{k}"),
)
_QKV: Packing = (_BLOCK + "attention.qkv.{leaf}", tuple(_BLOCK + f"attention.{part}_proj.{{leaf}}" for part in "qkv"))
_GATED: Packing = (_BLOCK + "mlp.gate_up.{leaf}", (_BLOCK + "mlp.gate_proj.{leaf}", _BLOCK + "mlp.up_proj.{leaf}"))


def _table(rotary: bool, gated: bool) -> tuple[tuple[str, str], ...]:
    """transformers' names (of its DINOv3 class where positions are rotary) -> ours."""
    patches = "embeddings.patch_embeddings" if rotary else "embeddings.patch_embeddings.projection"
    first = "gate_up" if gated else "up_proj" if rotary else "fc1"
    second = "down_proj" if gated or rotary else "fc2"
    return (
        *_HEADS,
        *_BLOCKS,
        *(() if rotary else (("embeddings.position_embeddings.weight", "backbone.position"),)),
        (patches + ".{leaf}", "backbone.patch_embedding.projection.{leaf}"),
        (_BLOCK + f"attention.{'o_proj' if rotary else 'out_proj'}.{{leaf}}", _OUR_BLOCK + "attention.projection.{leaf}"),
        (_BLOCK + f"mlp.{first}.{{leaf}}", _OUR_BLOCK + "mlp.linear1.{leaf}"),
        (_BLOCK + f"mlp.{second}.{{leaf}}", _OUR_BLOCK + "mlp.linear2.{leaf}"),
    )


_AUTHORS, _AUTHORS_BLOCK = "network.encoder.backbone.", "network.encoder.backbone.blocks.{i}."
_AUTHORS_HEADS: tuple[tuple[str, str], ...] = (
    ("network.q.weight", "query.weight"),
    (_AUTHORS + "norm.{leaf}", "layernorm.{leaf}"),
    ("network.class_head.{leaf}", "class_predictor.{leaf}"),
    *((f"network.mask_head.{2 * i}.{{leaf}}", f"mask_head.fc{i + 1}.{{leaf}}") for i in range(3)),
    ("network.upscale.{i}.norm.{leaf}", "upscale_block.block.{i}.layernorm2d.{leaf}"),
    ("network.upscale.{i}.conv{k}.{leaf}", "upscale_block.block.{i}.conv{k}.{leaf}"),
    ("network.attn_mask_probs", "attn_mask_probs"),
)
AUTHORS_DINOV2: tuple[tuple[str, str], ...] = (
    *_AUTHORS_HEADS,
    (_AUTHORS + "cls_token", "embeddings.cls_token"),
    (_AUTHORS + "reg_token", "embeddings.register_tokens"),
    (_AUTHORS + "pos_embed", "embeddings.position_embeddings.weight"),
    (_AUTHORS + "patch_embed.proj.{leaf}", "embeddings.patch_embeddings.projection.{leaf}"),
    (_AUTHORS_BLOCK + "norm{k}.{leaf}", _BLOCK + "norm{k}.{leaf}"),
    (_AUTHORS_BLOCK + "attn.qkv.{leaf}", _BLOCK + "attention.qkv.{leaf}"),
    (_AUTHORS_BLOCK + "attn.proj.{leaf}", _BLOCK + "attention.out_proj.{leaf}"),
    (_AUTHORS_BLOCK + "ls{k}.gamma", _BLOCK + "layer_scale{k}.lambda1"),
    (_AUTHORS_BLOCK + "mlp.fc{k}.{leaf}", _BLOCK + "mlp.fc{k}.{leaf}"),
)
AUTHORS_DINOV3: tuple[tuple[str, str], ...] = (
    *_AUTHORS_HEADS,
    (_AUTHORS + "patch_embed.{leaf}", "embeddings.{leaf}"),
    (_AUTHORS + "patch_embed.patch_embeddings.{leaf}", "embeddings.patch_embeddings.{leaf}"),
    (_AUTHORS_BLOCK + "{stem}", _BLOCK + "{stem}"),
)
BASE_DINOV3: tuple[tuple[str, str], ...] = (
    ("embeddings.{stem}", "embeddings.{stem}"),
    ("layer.{i}.{stem}", _BLOCK + "{stem}"),
    ("model.layer.{i}.{stem}", _BLOCK + "{stem}"),
    ("norm.{leaf}", "layernorm.{leaf}"),
)
"""transformers' `DINOv3ViTModel`, which the authors' deltas are added to."""
DROPPED = (r"criterion\..*", r"attn_mask_probs", r"embeddings\.mask_token", r"rope_embeddings\..*")
AUTHORS_DROPPED = (r"criterion\..*", r"network\.encoder\.pixel_(mean|std)")
NO_OBJECT_WEIGHT = 0.1


def eomt_layout(names: Collection[str]) -> str | None:
    """`transformers` or `transformers, DINOv3`; `authors` or `authors, DINOv3 deltas`; None: no EoMT."""
    if "network.q.weight" in names or "network.upscale.0.conv1.weight" in names:
        return "authors, DINOv3 deltas" if _AUTHORS + "patch_embed.patch_embeddings.weight" in names else "authors"
    marks = ("query.weight", "class_predictor.weight", "mask_head.fc1.weight", "upscale_block.block.0.conv1.weight")
    if sum(mark in names for mark in marks) < 2:  # a part may be missing, which is said later
        return None
    return "transformers" if "embeddings.position_embeddings.weight" in names else "transformers, DINOv3"


def from_authors(state: Mapping[str, Tensor], layout: str, base: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The authors' tensors under transformers' names.

    Args:
        layout: of `eomt_layout`.
        base: for deltas: DINOv3's own weights, under transformers' names; None: the weights are whole.

    Raises:
        CheckpointError: names that are not EoMT's, or a base that does not fit.
    """
    if layout == "authors":
        named = rename(state, AUTHORS_DINOV2, AUTHORS_DROPPED)
        position = named["embeddings.position_embeddings.weight"]
        return named | {"embeddings.position_embeddings.weight": position[0] if position.ndim == 3 else position}
    named = rename(state, AUTHORS_DINOV3, AUTHORS_DROPPED)
    if base is None:
        return named
    ours = {name for name in named if name.startswith(("embeddings.", "layers.", "layernorm."))}
    theirs = rename(base, BASE_DINOV3)
    if missing := ours - theirs.keys():
        raise CheckpointError(f"the base is not the DINOv3 that these deltas were made from; it lacks {listed(missing)}")
    if differing := [name for name in ours if theirs[name].shape != named[name].shape]:
        shapes = (f"{name} is {tuple(theirs[name].shape)}, not {tuple(named[name].shape)}" for name in differing)
        raise CheckpointError(f"the base is not the DINOv3 that these deltas were made from: {listed(shapes)}")
    untouched = {name: tensor for name, tensor in theirs.items() if name not in named}
    return untouched | named | {name: theirs[name].float() + named[name].float() for name in ours}


def masked_attention(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint's queries attend to their own masks alone.

    Raises:
        CheckpointError: in part, or at random: training was not finished.
    """
    shares = state.get("attn_mask_probs")
    if shares is None or not bool((shares > 0).any()):
        return False
    if bool((shares == 1).all()):
        return True
    raise CheckpointError(
        f"attn_mask_probs is {[round(value, 3) for value in shares.tolist()]}: the attention masks of this EoMT "
        "are half annealed, so that its answers depend on chance. Train to the end (all 0), or set all of them to 0 or to 1."
    )


def from_transformers_eomt(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Tensors under transformers' names -> ours. DINOv3's keys have no bias: it is zero here.

    Raises:
        CheckpointError: names that are not EoMT's.
    """
    rotary, current = layout.endswith(("DINOv3", "deltas")), dict(state)
    gated = any(name.endswith("mlp.gate_proj.weight") for name in current)
    if rotary:
        for name in [name for name in current if name.endswith("attention.k_proj.weight")]:
            current.setdefault(name.replace(".weight", ".bias"), torch.zeros(len(current[name]), dtype=current[name].dtype))
    renamed = rename(pack_rows(current, [_QKV, _GATED] if gated else [_QKV]), _table(rotary, gated), DROPPED)
    for name in ("backbone.class_token", "backbone.registers"):
        if name in renamed:
            renamed[name] = renamed[name].reshape(-1, renamed[name].shape[-1])
    if "backbone.registers" in renamed and not len(renamed["backbone.registers"]):
        del renamed["backbone.registers"]
    return renamed


def to_transformers_eomt(state: Mapping[str, Tensor], config: EomtModelConfig) -> dict[str, Tensor]:
    """The reverse of `from_transformers_eomt`: every name that `from_pretrained` looks for."""
    backbone = config.backbone
    table = inverted(_table(backbone.position == "rotary", backbone.gated_mlp))
    named = split_rows(rename(state, table), [_QKV, _GATED])
    if not backbone.key_bias:
        named = {name: tensor for name, tensor in named.items() if not name.endswith("attention.k_proj.bias")}
    for name in ("embeddings.cls_token", "embeddings.register_tokens"):
        if name in named:
            named[name] = named[name][None]
    named.setdefault("embeddings.register_tokens", torch.zeros(1, 0, backbone.dim))
    empty_weight = torch.ones(named["class_predictor.bias"].shape)
    empty_weight[-1] = NO_OBJECT_WEIGHT
    shares = torch.full((config.query_blocks,), float(config.masked_attention))
    return named | {"attn_mask_probs": shares, "criterion.empty_weight": empty_weight}
