"""The layout of transformers' Mask2Former, as a rename table plus named tensor transforms; both directions."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from proscale.checkpoints.packed_matrices import Packing, pack_rows, split_rows
from proscale.checkpoints.rename_tensors import inverted, rename, rename_where_known

_BACKBONE = "model.pixel_level_module.encoder."
_PIXEL = "model.pixel_level_module.decoder."
_QUERY = "model.transformer_module."
_BLOCK = _BACKBONE + "swin.encoder.layers.{i}.blocks.{j}."
_OUR_BLOCK = "backbone.stages.{i}.blocks.{j}."
_ENCODER, _OUR_ENCODER = _PIXEL + "encoder.layers.{i}.", "pixel_decoder.encoder.layers.{i}."
_DECODER, _OUR_DECODER = _QUERY + "decoder.layers.{i}.", "transformer_decoder.layers.{i}."

_SWIN = [
    (_BACKBONE + "swin.embeddings.patch_embeddings.projection.{leaf}", "backbone.patch_embedding.projection.{leaf}"),
    (_BACKBONE + "swin.embeddings.norm.{leaf}", "backbone.patch_embedding.norm.{leaf}"),
    (_BLOCK + "attention.qkv.{leaf}", _OUR_BLOCK + "attention.qkv.{leaf}"),
    (_BLOCK + "attention.o_proj.{leaf}", _OUR_BLOCK + "attention.projection.{leaf}"),
    (_BLOCK + "attention.relative_position_bias.relative_position_bias_table", _OUR_BLOCK + "attention.relative_position_bias"),
    (_BLOCK + "layernorm_before.{leaf}", _OUR_BLOCK + "norm1.{leaf}"),
    (_BLOCK + "layernorm_after.{leaf}", _OUR_BLOCK + "norm2.{leaf}"),
    (_BLOCK + "mlp.fc{k}.{leaf}", _OUR_BLOCK + "mlp.linear{k}.{leaf}"),
    (_BACKBONE + "swin.encoder.layers.{i}.downsample.norm.{leaf}", "backbone.stages.{i}.downsample.norm.{leaf}"),
    (_BACKBONE + "swin.encoder.layers.{i}.downsample.reduction.weight", "backbone.stages.{i}.downsample.reduction.weight"),
    *((_BACKBONE + f"hidden_states_norms.stage{i + 1}.{{leaf}}", f"backbone.output_norms.{i}.{{leaf}}") for i in range(4)),
]

_UNIT, _OUR_UNIT = _BACKBONE + "encoder.stages.{i}.layers.{j}.", "backbone.stages.{i}.{j}."
_RESNET = [
    (_BACKBONE + "embedder.embedder.convolution.weight", "backbone.stem.conv.weight"),
    (_BACKBONE + "embedder.embedder.normalization.{leaf}", "backbone.stem.norm.{leaf}"),
    (_UNIT + "shortcut.convolution.weight", _OUR_UNIT + "shortcut.conv.weight"),
    (_UNIT + "shortcut.normalization.{leaf}", _OUR_UNIT + "shortcut.norm.{leaf}"),
    *(
        entry
        for k in range(3)
        for entry in (
            (_UNIT + f"layer.{k}.convolution.weight", _OUR_UNIT + f"conv{k + 1}.conv.weight"),
            (_UNIT + f"layer.{k}.normalization.{{leaf}}", _OUR_UNIT + f"conv{k + 1}.norm.{{leaf}}"),
        )
    ),
]

_PIXEL_DECODER = [
    (_PIXEL + "input_projections.{i}.{j}.{leaf}", "pixel_decoder.input_projections.{i}.{j}.{leaf}"),
    (_PIXEL + "level_embed", "pixel_decoder.encoder.level_embedding"),
    (_ENCODER + "self_attn.sampling_offsets.{leaf}", _OUR_ENCODER + "attention.sampling_offsets.{leaf}"),
    (_ENCODER + "self_attn.attention_weights.{leaf}", _OUR_ENCODER + "attention.attention_weights.{leaf}"),
    (_ENCODER + "self_attn.value_proj.{leaf}", _OUR_ENCODER + "attention.value_projection.{leaf}"),
    (_ENCODER + "self_attn.output_proj.{leaf}", _OUR_ENCODER + "attention.output_projection.{leaf}"),
    (_ENCODER + "self_attn_layer_norm.{leaf}", _OUR_ENCODER + "norm1.{leaf}"),
    (_ENCODER + "final_layer_norm.{leaf}", _OUR_ENCODER + "norm2.{leaf}"),
    (_ENCODER + "fc{k}.{leaf}", _OUR_ENCODER + "ffn.linear{k}.{leaf}"),
    (_PIXEL + "adapter_1.0.weight", "pixel_decoder.pixel_embedding.lateral_conv.weight"),
    (_PIXEL + "adapter_1.1.{leaf}", "pixel_decoder.pixel_embedding.lateral_norm.{leaf}"),
    (_PIXEL + "layer_1.0.weight", "pixel_decoder.pixel_embedding.output_conv.weight"),
    (_PIXEL + "layer_1.1.{leaf}", "pixel_decoder.pixel_embedding.output_norm.{leaf}"),
    (_PIXEL + "mask_projection.{leaf}", "pixel_decoder.mask_projection.{leaf}"),
]

_TRANSFORMER_DECODER = [
    (_QUERY + "queries_features.weight", "transformer_decoder.query_features"),
    (_QUERY + "queries_embedder.weight", "transformer_decoder.query_position"),
    (_QUERY + "level_embed.weight", "transformer_decoder.level_embedding"),
    (_QUERY + "decoder.layernorm.{leaf}", "transformer_decoder.norm.{leaf}"),
    (_QUERY + "decoder.mask_predictor.mask_embedder.{i}.0.{leaf}", "transformer_decoder.mask_head.layers.{i}.{leaf}"),
    ("class_predictor.{leaf}", "transformer_decoder.class_head.{leaf}"),
    (_DECODER + "cross_attn.in_proj_{leaf}", _OUR_DECODER + "cross_attention.in_projection.{leaf}"),
    (_DECODER + "cross_attn.out_proj.{leaf}", _OUR_DECODER + "cross_attention.out_projection.{leaf}"),
    (_DECODER + "cross_attn_layer_norm.{leaf}", _OUR_DECODER + "cross_norm.{leaf}"),
    (_DECODER + "self_attn.in_proj_{leaf}", _OUR_DECODER + "self_attention.in_projection.{leaf}"),
    (_DECODER + "self_attn.out_proj.{leaf}", _OUR_DECODER + "self_attention.out_projection.{leaf}"),
    (_DECODER + "self_attn_layer_norm.{leaf}", _OUR_DECODER + "self_norm.{leaf}"),
    (_DECODER + "fc{k}.{leaf}", _OUR_DECODER + "ffn.linear{k}.{leaf}"),
    (_DECODER + "final_layer_norm.{leaf}", _OUR_DECODER + "ffn_norm.{leaf}"),
]

TABLE: tuple[tuple[str, str], ...] = (*_SWIN, *_RESNET, *_PIXEL_DECODER, *_TRANSFORMER_DECODER)

PACKINGS: tuple[Packing, ...] = (
    (
        _BACKBONE + "{stem}.attention.qkv.{leaf}",
        tuple(_BACKBONE + "{stem}.attention." + part + "_proj.{leaf}" for part in "qkv"),
    ),
    (
        _QUERY + "{stem}.self_attn.in_proj_{leaf}",
        tuple(_QUERY + "{stem}.self_attn." + part + "_proj.{leaf}" for part in "qkv"),
    ),
)
"""Matrices that transformers splits; its cross-attention is packed as ours is."""

FILE_PREFIXES: tuple[tuple[str, str], ...] = (
    (_BACKBONE + "encoder.layers.{stem}", _BACKBONE + "swin.encoder.layers.{stem}"),
    (_BACKBONE + "embeddings.{stem}", _BACKBONE + "swin.embeddings.{stem}"),
)
FILE_LEAVES: tuple[tuple[str, str], ...] = (
    (_BLOCK + "attention.self.query.{leaf}", _BLOCK + "attention.q_proj.{leaf}"),
    (_BLOCK + "attention.self.key.{leaf}", _BLOCK + "attention.k_proj.{leaf}"),
    (_BLOCK + "attention.self.value.{leaf}", _BLOCK + "attention.v_proj.{leaf}"),
    (_BLOCK + "attention.output.dense.{leaf}", _BLOCK + "attention.o_proj.{leaf}"),
    (
        _BLOCK + "attention.self.relative_position_bias_table",
        _BLOCK + "attention.relative_position_bias.relative_position_bias_table",
    ),
    (_BLOCK + "intermediate.dense.{leaf}", _BLOCK + "mlp.fc1.{leaf}"),
    (_BLOCK + "output.dense.{leaf}", _BLOCK + "mlp.fc2.{leaf}"),
)
"""Swin's names in files, which every release of transformers reads -> its names in memory since 5.0: first prefixes, then leaves."""

DROPPED = (
    r".*\.relative_position_index",
    r"criterion\.empty_weight",
    r".*\.num_batches_tracked",
    r"model\.pixel_level_module\.encoder\.(swin\.)?layernorm\.\w+",  # of a classifier; no output level passes it
)
"""Names that carry constants or bookkeeping, not weights."""

NO_OBJECT_WEIGHT = 0.1


def is_transformers(names: Collection[str]) -> bool:
    """Whether these are transformers' names."""
    return any(name.startswith("model.pixel_level_module.") for name in names)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under transformers' names, of any release -> the same tensors under ours.

    Raises:
        CheckpointError: lists names that are not part of a Mask2Former network, or parts that miss their companions.
    """
    current = rename_where_known(rename_where_known(state, FILE_PREFIXES), FILE_LEAVES)
    return rename(pack_rows(current, PACKINGS), TABLE, DROPPED)


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `from_transformers`: every name that its `from_pretrained` looks for, as files have it.

    Raises:
        CheckpointError: lists tensors that transformers' Mask2Former has no place for.
    """
    named = split_rows(rename(state, inverted(TABLE)), PACKINGS)
    counters = [name.removesuffix("running_var") for name in named if name.endswith("normalization.running_var")]
    named |= {name + "num_batches_tracked": torch.tensor(0) for name in counters}
    if _BACKBONE + "swin.embeddings.norm.weight" in named:
        width = named[_BACKBONE + "hidden_states_norms.stage4.weight"].shape
        named |= {_BACKBONE + "swin.layernorm.weight": torch.ones(width), _BACKBONE + "swin.layernorm.bias": torch.zeros(width)}
    empty_weight = torch.ones(named["class_predictor.bias"].shape)
    empty_weight[-1] = NO_OBJECT_WEIGHT
    named["criterion.empty_weight"] = empty_weight
    return rename_where_known(rename_where_known(named, inverted(FILE_LEAVES)), inverted(FILE_PREFIXES))
