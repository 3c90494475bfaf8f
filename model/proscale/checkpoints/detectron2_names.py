"""The layout of published Mask2Former and PRO-SCALE checkpoints (detectron2's names), as a rename table."""

from collections.abc import Collection, Mapping

from torch import Tensor

from proscale.checkpoints.rename_tensors import inverted, rename, rename_where_known

_PIXEL = "sem_seg_head.pixel_decoder."
_QUERY = "sem_seg_head.predictor."
_ENCODER = _PIXEL + "transformer.encoder.layers.{i}."

_SWIN = [
    ("backbone.patch_embed.proj.{leaf}", "backbone.patch_embedding.projection.{leaf}"),
    ("backbone.patch_embed.norm.{leaf}", "backbone.patch_embedding.norm.{leaf}"),
    ("backbone.layers.{i}.blocks.{j}.attn.qkv.{leaf}", "backbone.stages.{i}.blocks.{j}.attention.qkv.{leaf}"),
    ("backbone.layers.{i}.blocks.{j}.attn.proj.{leaf}", "backbone.stages.{i}.blocks.{j}.attention.projection.{leaf}"),
    (
        "backbone.layers.{i}.blocks.{j}.attn.relative_position_bias_table",
        "backbone.stages.{i}.blocks.{j}.attention.relative_position_bias",
    ),
    ("backbone.layers.{i}.blocks.{j}.norm{k}.{leaf}", "backbone.stages.{i}.blocks.{j}.norm{k}.{leaf}"),
    ("backbone.layers.{i}.blocks.{j}.mlp.fc{k}.{leaf}", "backbone.stages.{i}.blocks.{j}.mlp.linear{k}.{leaf}"),
    ("backbone.layers.{i}.downsample.norm.{leaf}", "backbone.stages.{i}.downsample.norm.{leaf}"),
    ("backbone.layers.{i}.downsample.reduction.weight", "backbone.stages.{i}.downsample.reduction.weight"),
    ("backbone.norm{i}.{leaf}", "backbone.output_norms.{i}.{leaf}"),
]

_RESNET = [
    ("backbone.stem.conv1.weight", "backbone.stem.conv.weight"),
    ("backbone.stem.conv1.norm.{leaf}", "backbone.stem.norm.{leaf}"),
    *(
        entry
        for stage in range(4)
        for entry in (
            (f"backbone.res{stage + 2}.{{i}}.conv{{j}}.weight", f"backbone.stages.{stage}.{{i}}.conv{{j}}.conv.weight"),
            (f"backbone.res{stage + 2}.{{i}}.conv{{j}}.norm.{{leaf}}", f"backbone.stages.{stage}.{{i}}.conv{{j}}.norm.{{leaf}}"),
            (f"backbone.res{stage + 2}.{{i}}.shortcut.weight", f"backbone.stages.{stage}.{{i}}.shortcut.conv.weight"),
            (f"backbone.res{stage + 2}.{{i}}.shortcut.norm.{{leaf}}", f"backbone.stages.{stage}.{{i}}.shortcut.norm.{{leaf}}"),
        )
    ),
]

_PIXEL_DECODER = [
    (_PIXEL + "input_proj.{i}.{j}.{leaf}", "pixel_decoder.input_projections.{i}.{j}.{leaf}"),
    (_PIXEL + "transformer.level_embed", "pixel_decoder.encoder.level_embedding"),
    (_PIXEL + "transformer.encoder.token_excite.ops.{leaf}", "pixel_decoder.encoder.recalibration.gate.{leaf}"),
    (_ENCODER + "self_attn.sampling_offsets.{leaf}", "pixel_decoder.encoder.layers.{i}.attention.sampling_offsets.{leaf}"),
    (_ENCODER + "self_attn.attention_weights.{leaf}", "pixel_decoder.encoder.layers.{i}.attention.attention_weights.{leaf}"),
    (_ENCODER + "self_attn.value_proj.{leaf}", "pixel_decoder.encoder.layers.{i}.attention.value_projection.{leaf}"),
    (_ENCODER + "self_attn.output_proj.{leaf}", "pixel_decoder.encoder.layers.{i}.attention.output_projection.{leaf}"),
    (_ENCODER + "norm{j}.{leaf}", "pixel_decoder.encoder.layers.{i}.norm{j}.{leaf}"),
    (_ENCODER + "linear{j}.{leaf}", "pixel_decoder.encoder.layers.{i}.ffn.linear{j}.{leaf}"),
    (_PIXEL + "adapter_1.weight", "pixel_decoder.pixel_embedding.lateral_conv.weight"),
    (_PIXEL + "adapter_1.norm.{leaf}", "pixel_decoder.pixel_embedding.lateral_norm.{leaf}"),
    (_PIXEL + "layer_1.weight", "pixel_decoder.pixel_embedding.output_conv.weight"),
    (_PIXEL + "layer_1.norm.{leaf}", "pixel_decoder.pixel_embedding.output_norm.{leaf}"),
    (_PIXEL + "mask_features.{leaf}", "pixel_decoder.mask_projection.{leaf}"),
]

_CROSS = _QUERY + "transformer_cross_attention_layers.{i}."
_SELF = _QUERY + "transformer_self_attention_layers.{i}."
_FFN = _QUERY + "transformer_ffn_layers.{i}."

_TRANSFORMER_DECODER = [
    (_QUERY + "query_feat.weight", "transformer_decoder.query_features"),
    (_QUERY + "query_embed.weight", "transformer_decoder.query_position"),
    (_QUERY + "level_embed.weight", "transformer_decoder.level_embedding"),
    (_QUERY + "decoder_norm.{leaf}", "transformer_decoder.norm.{leaf}"),
    (_QUERY + "class_embed.{leaf}", "transformer_decoder.class_head.{leaf}"),
    (_QUERY + "mask_embed.layers.{i}.{leaf}", "transformer_decoder.mask_head.layers.{i}.{leaf}"),
    (_CROSS + "multihead_attn.in_proj_{leaf}", "transformer_decoder.layers.{i}.cross_attention.in_projection.{leaf}"),
    (_CROSS + "multihead_attn.out_proj.{leaf}", "transformer_decoder.layers.{i}.cross_attention.out_projection.{leaf}"),
    (_CROSS + "norm.{leaf}", "transformer_decoder.layers.{i}.cross_norm.{leaf}"),
    (_SELF + "self_attn.in_proj_{leaf}", "transformer_decoder.layers.{i}.self_attention.in_projection.{leaf}"),
    (_SELF + "self_attn.out_proj.{leaf}", "transformer_decoder.layers.{i}.self_attention.out_projection.{leaf}"),
    (_SELF + "norm.{leaf}", "transformer_decoder.layers.{i}.self_norm.{leaf}"),
    (_FFN + "linear{j}.{leaf}", "transformer_decoder.layers.{i}.ffn.linear{j}.{leaf}"),
    (_FFN + "norm.{leaf}", "transformer_decoder.layers.{i}.ffn_norm.{leaf}"),
]

TABLE: tuple[tuple[str, str], ...] = (*_SWIN, *_RESNET, *_PIXEL_DECODER, *_TRANSFORMER_DECODER)

DROPPED = (r".*\.relative_position_index", r"criterion\.empty_weight", r"pixel_mean", r"pixel_std", r".*\.num_batches_tracked")
"""Names that carry constants or bookkeeping, not weights."""


OLDER_NAMES: tuple[tuple[str, str], ...] = (
    (_QUERY + "static_query.weight", _QUERY + "query_feat.weight"),
    # Before Mask2Former's head had a version, its pixel decoder had no prefix of its own.
    *((source.replace(_PIXEL, "sem_seg_head."), source) for source, _ in _PIXEL_DECODER),
)
"""Names of early checkpoints -> the names of the table."""


def is_detectron2(names: Collection[str]) -> bool:
    """Whether these are detectron2's names."""
    return any(name.startswith("sem_seg_head.") for name in names)


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under detectron2's names -> the same tensors under ours.

    Raises:
        CheckpointError: lists names that are not part of a Mask2Former or PRO-SCALE network.
    """
    return rename(rename_where_known(state, OLDER_NAMES), TABLE, DROPPED)


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `from_detectron2`; what it dropped is not made again."""
    return rename(state, inverted(TABLE))
