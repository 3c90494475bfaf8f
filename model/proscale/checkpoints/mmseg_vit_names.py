"""The layouts of SETR and SegViT checkpoints: mmsegmentation's plain ViT and heads."""

from collections.abc import Collection, Mapping

from torch import Tensor

from proscale.checkpoints.rename_tensors import rename
from proscale.errors import CheckpointError

_BLOCK, _OUR_BLOCK = "backbone.layers.{i}.", "backbone.blocks.{i}."
VIT: tuple[tuple[str, str], ...] = (
    ("backbone.cls_token", "backbone.class_token"),
    ("backbone.pos_embed", "backbone.position"),
    ("backbone.patch_embed.projection.{leaf}", "backbone.patch_embedding.projection.{leaf}"),
    (_BLOCK + "ln1.{leaf}", _OUR_BLOCK + "norm1.{leaf}"),
    (_BLOCK + "ln2.{leaf}", _OUR_BLOCK + "norm2.{leaf}"),
    (_BLOCK + "attn.attn.in_proj_{leaf}", _OUR_BLOCK + "attention.qkv.{leaf}"),
    (_BLOCK + "attn.attn.out_proj.{leaf}", _OUR_BLOCK + "attention.projection.{leaf}"),
    (_BLOCK + "ffn.layers.0.0.{leaf}", _OUR_BLOCK + "mlp.linear1.{leaf}"),
    (_BLOCK + "ffn.layers.1.{leaf}", _OUR_BLOCK + "mlp.linear2.{leaf}"),
    # timm's names, which files of the first years keep
    ("backbone.patch_embed.proj.{leaf}", "backbone.patch_embedding.projection.{leaf}"),
    ("backbone.blocks.{i}.norm{k}.{leaf}", _OUR_BLOCK + "norm{k}.{leaf}"),
    ("backbone.blocks.{i}.attn.qkv.{leaf}", _OUR_BLOCK + "attention.qkv.{leaf}"),
    ("backbone.blocks.{i}.attn.proj.{leaf}", _OUR_BLOCK + "attention.projection.{leaf}"),
    ("backbone.blocks.{i}.mlp.fc{k}.{leaf}", _OUR_BLOCK + "mlp.linear{k}.{leaf}"),
)
_CLASSIFIER = ("decode_head.conv_seg.{leaf}", "head.classifier.{leaf}")
SETR_SINGLE: tuple[tuple[str, str], ...] = (
    ("decode_head.norm.{leaf}", "head.norms.0.{leaf}"),
    ("decode_head.up_convs.{i}.0.conv.weight", "head.steps.{i}.conv.weight"),
    ("decode_head.up_convs.{i}.0.bn.{leaf}", "head.steps.{i}.norm.{leaf}"),
    _CLASSIFIER,
)
"""Naive and PUP."""
SETR_MLA: tuple[tuple[str, str], ...] = (
    ("neck.norm.{i}.{leaf}", "head.norms.{i}.{leaf}"),
    ("neck.mla.channel_proj.{i}.conv.weight", "head.projections.{i}.conv.weight"),
    ("neck.mla.channel_proj.{i}.bn.{leaf}", "head.projections.{i}.norm.{leaf}"),
    ("neck.mla.feat_extract.{i}.conv.weight", "head.aggregations.{i}.conv.weight"),
    ("neck.mla.feat_extract.{i}.bn.{leaf}", "head.aggregations.{i}.norm.{leaf}"),
    ("decode_head.up_convs.{i}.{j}.conv.weight", "head.steps.{i}.{j}.conv.weight"),
    ("decode_head.up_convs.{i}.{j}.bn.{leaf}", "head.steps.{i}.{j}.norm.{leaf}"),
    _CLASSIFIER,
)


def _segvit_layer(layer: str, ours: str) -> tuple[tuple[str, str], ...]:
    names = {"q": "query", "k": "key", "v": "value", "proj": "projection"}
    return (
        (layer + "self_attn.in_proj_{leaf}", ours + "self_attention.in_projection.{leaf}"),
        (layer + "self_attn.out_proj.{leaf}", ours + "self_attention.out_projection.{leaf}"),
        *((layer + f"multihead_attn.{name}.{{leaf}}", ours + f"cross_attention.{our}.{{leaf}}") for name, our in names.items()),
        (layer + "linear{k}.{leaf}", ours + "ffn.linear{k}.{leaf}"),
        (layer + "norm{k}.{leaf}", ours + "norm{k}.{leaf}"),
    )


def _segvit_stage(stage: int) -> tuple[tuple[str, str], ...]:
    return (
        (f"decode_head.input_proj_{stage + 1}.{{leaf}}", f"head.stages.{stage}.projection.{{leaf}}"),
        (f"decode_head.proj_norm_{stage + 1}.{{leaf}}", f"head.stages.{stage}.norm.{{leaf}}"),
        *_segvit_layer(f"decode_head.decoder_{stage + 1}.layers.{{j}}.", f"head.stages.{stage}.layers.{{j}}."),
    )


SEGVIT: tuple[tuple[str, str], ...] = (
    ("decode_head.q.weight", "head.queries"),
    ("decode_head.class_embed.{leaf}", "head.class_head.{leaf}"),
    *(entry for stage in range(4) for entry in _segvit_stage(stage)),
)
SEGVIT_SHRUNK: tuple[tuple[str, str], ...] = (
    ("decode_head.q.weight", "head.patch_queries"),
    ("decode_head.atm.q.weight", "head.queries"),
    ("decode_head.atm.class_embed.{leaf}", "head.class_head.{leaf}"),
    *_segvit_layer("decode_head.atm.decoder_1.layers.{j}.", "head.layers.{j}."),
    *(entry for stage in range(4) for entry in _segvit_stage(stage)),
)
DROPPED = (
    r".*\.num_batches_tracked",
    r"auxiliary_head\..*",
    r"decode_head\.criterion\..*",
    r"decode_head\.loss_decode\..*",
    r"data_preprocessor\.(mean|std)",
    r"ema_\w+",
)
"""The last are mmcv's moving averages, under names without dots."""
CLASS_TOKEN, POSITION = "backbone.class_token", "backbone.position"


def mmseg_vit_layout(names: Collection[str]) -> str | None:
    """`setr`, `segvit` or `segvit shrunk`, in mmsegmentation's layout; None: neither.

    Raises:
        CheckpointError: SETR in its authors' own layout, which is another network, or a plain ViT without a known head.
    """
    heads = {name.split(".")[1] for name in names if name.startswith("decode_head.")}
    if any(name.startswith(("backbone.mla", "mla.mla_p", "decode_head.syncbn_fc", "decode_head.conv_0")) for name in names):
        raise CheckpointError(
            "this is SETR in its authors' layout, whose heads compute something else (biases, other resizing); "
            "mmsegmentation's SETR checkpoints can be converted"
        )
    if "backbone.pos_embed" not in names:
        return None
    if "atm" in heads:
        return "segvit shrunk"
    if "decoder_1" in heads or "q" in heads:
        return "segvit"
    return "setr" if "up_convs" in heads else None


def from_mmseg_vit(state: Mapping[str, Tensor], layout: str, class_token: bool) -> dict[str, Tensor]:
    """SETR's or SegViT's tensors under our names.

    Args:
        layout: of `mmseg_vit_layout`.
        class_token: whether the class token goes through the blocks; its position is added to it here. If not, both go.

    Raises:
        CheckpointError: names that are not theirs.
    """
    setr = SETR_MLA if any(name.startswith("neck.mla.") for name in state) else SETR_SINGLE
    table = {"segvit": SEGVIT, "segvit shrunk": SEGVIT_SHRUNK}.get(layout, setr)
    if "backbone.cls_token" not in state:
        raise CheckpointError("the checkpoint is not a whole network: backbone.cls_token is missing")
    renamed = rename(_unpacked(state) if layout == "segvit shrunk" else state, (*VIT, *table), DROPPED)
    position, token = renamed[POSITION], renamed.pop(CLASS_TOKEN)
    if position.ndim != 3 or position.shape[0] != 1:
        raise CheckpointError(f"backbone.pos_embed is {tuple(position.shape)}, but should be (1, tokens, channels)")
    renamed[POSITION] = position[0, 1:].clone()
    if class_token:
        renamed[CLASS_TOKEN] = (token.float() + position[:, :1].float())[0]  # halves would round the sum
    return renamed


def _unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query upsampling's attention to tokens is torch's own, whose q, k and v are packed; attention to mask has them apart, as ours has."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".multihead_attn.in_proj_" in name and len(tensor) % 3 == 0:
            prefix, leaf = name.split("in_proj_")
            out |= {f"{prefix}{part}.{leaf}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            out[name.replace(".multihead_attn.out_proj.", ".multihead_attn.proj.")] = tensor
    return out
