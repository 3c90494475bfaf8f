"""transformers' `config.json` and `preprocessor_config.json`: what they say when read, and what they must say when written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proscale.checkpoints.stated_settings import StatedSettings
from proscale.checkpoints.transformers_names import NO_OBJECT_WEIGHT
from proscale.config import Mask2FormerEncoderConfig, ModelConfig, ResNetConfig
from proscale.errors import CheckpointError
from proscale.labels import Category

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
POINTS = 4
"""Sampling points per head and level; transformers has no other."""
REQUIRED = {"pre_norm": False, "enforce_input_projection": False, "common_stride": 4, "activation_function": "relu"}
REQUIRED_SWIN = {
    "use_absolute_embeddings": False,
    "qkv_bias": True,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "patch_size": 4,
    "num_channels": 3,
}
REQUIRED_RESNET = {"layer_type": "bottleneck", "downsample_in_first_stage": False, "downsample_in_bottleneck": False, "hidden_act": "relu"}
"""Settings that shapes do not show; what is left out has these values, any other value means another network."""


def read_transformers_config(path: Path) -> StatedSettings:
    """Read a `config.json`, and the `preprocessor_config.json` beside it.

    Raises:
        CheckpointError: not a Mask2Former configuration, or one of a network that differs from ours; the text says where.
    """
    values = read_json_settings(path)
    if values.get("model_type") != "mask2former":
        raise CheckpointError(f"{path} describes a {values.get('model_type')!r} model, not mask2former")
    backbone = values.get("backbone_config") or {}
    kind = backbone.get("model_type", "swin")
    if kind not in ("swin", "resnet"):
        raise CheckpointError(f"{path}: the backbone is {kind!r}; swin and resnet are supported")
    checks = [(values, REQUIRED, ""), (backbone, REQUIRED_SWIN if kind == "swin" else REQUIRED_RESNET, "backbone_config.")]
    for given, required, prefix in checks:
        for name, value in required.items():
            if given.get(name, value) != value:
                raise CheckpointError(f"{path}: {prefix}{name} is {given[name]!r}; only {value!r} is supported")
    layers = values.get("decoder_layers", 10)
    claims: dict[str, object] = {
        "pixel_decoder.encoder.layers": values.get("encoder_layers", 6),
        # One more than there are: transformers counts the prediction from the learnt queries.
        "transformer_decoder.layers": layers - 1 if isinstance(layers, int) else layers,
        "transformer_decoder.queries": values.get("num_queries", 100),
        "pixel_decoder.hidden_dim": values.get("hidden_dim", 256),
    }
    if kind == "swin":
        names = {"embed_dim": "embed_dim", "depths": "depths", "heads": "num_heads", "window": "window_size"}
        claims |= {f"backbone.{ours}": _tuple(backbone[theirs]) for ours, theirs in names.items() if theirs in backbone}
    heads = values.get("num_attention_heads", 8)
    if not isinstance(heads, int) or heads < 1:
        raise CheckpointError(f"{path}: num_attention_heads should be a whole number above 0, not {heads!r}")
    hints = StatedSettings(heads=heads, points=POINTS, label_names=label_names(values.get("id2label")), claims=tuple(claims.items()))
    processor = path.with_name(PREPROCESSOR_FILE)
    return hints.or_else(preprocessing(read_json_settings(processor))) if processor.is_file() else hints


def transformers_config(config: ModelConfig, categories: Sequence[Category]) -> dict[str, Any]:
    """A `config.json` for `Mask2FormerForUniversalSegmentation`.

    Raises:
        CheckpointError: transformers has no such network; the text says why.
    """
    encoder, decoder, pixel = config.pixel_decoder.encoder, config.transformer_decoder, config.pixel_decoder
    reasons = []
    if not isinstance(encoder, Mask2FormerEncoderConfig):
        reasons.append("its encoder is PRO-SCALE's")
    if pixel.pixel_embedding != "conv":
        reasons.append("its pixel embedding is a max-pool")
    if pixel.points != POINTS or pixel.heads != decoder.heads:
        reasons.append(f"it does not have {POINTS} sampling points and one number of heads")
    if isinstance(config.backbone, ResNetConfig) and config.backbone.res2_channels != 4 * config.backbone.bottleneck_channels:
        reasons.append("its ResNet's bottlenecks are not a quarter of the channels")
    if reasons or not isinstance(encoder, Mask2FormerEncoderConfig):
        raise CheckpointError(f"transformers has no such network: {'; '.join(reasons)}. Only Mask2Former models can be written for it.")
    names = {str(i): category.name for i, category in enumerate(categories)}
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": _backbone(config),
        "feature_size": pixel.hidden_dim,
        "mask_feature_size": pixel.hidden_dim,
        "hidden_dim": pixel.hidden_dim,
        "encoder_feedforward_dim": pixel.ffn_dim,
        "encoder_layers": encoder.layers,
        "decoder_layers": decoder.layers + 1,
        "num_attention_heads": decoder.heads,
        "dim_feedforward": decoder.ffn_dim,
        "num_queries": decoder.queries,
        "no_object_weight": NO_OBJECT_WEIGHT,
        "dtype": "float32",
        "id2label": names,
        "label2id": {name: int(i) for i, name in names.items()},
        **REQUIRED,
    }


def preprocessor_config(config: ModelConfig) -> dict[str, Any]:
    """A `preprocessor_config.json` with our sizes, mean and deviation."""
    size = config.preprocess
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "size": {"shortest_edge": size.short_side, "longest_edge": size.long_side},
        "size_divisor": size.size_divisor,
        "image_mean": [value / 255 for value in size.mean],
        "image_std": [value / 255 for value in size.std],
        "ignore_index": 255,
        "do_reduce_labels": False,
    }


def _backbone(config: ModelConfig) -> dict[str, Any]:
    backbone, stages = config.backbone, {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    if isinstance(backbone, ResNetConfig):
        widths = [backbone.res2_channels * 2**i for i in range(4)]
        sizes = {"embedding_size": backbone.stem_channels, "hidden_sizes": widths, "depths": list(backbone.blocks)}
        return {"model_type": "resnet", **sizes, **stages, **REQUIRED_RESNET}
    sizes = {"embed_dim": backbone.embed_dim, "depths": list(backbone.depths), "num_heads": list(backbone.heads)}
    return {"model_type": "swin", **sizes, "window_size": backbone.window, "layer_norm_eps": 1e-5, **stages, **REQUIRED_SWIN}


def preprocessing(values: Mapping[str, Any]) -> StatedSettings:
    """Colours and sides of a `preprocessor_config.json`, on our scale."""
    size = values.get("size")
    # A fixed height and width (squashed pictures) is no rule of ours: the data set's own sizes stand in for it.
    edges = size if isinstance(size, dict) and "shortest_edge" in size else {}
    short, long = edges.get("shortest_edge"), edges.get("longest_edge")
    if isinstance(size, int) and isinstance(values.get("max_size"), int):
        short, long = size, values["max_size"]
    if not isinstance(short, int) or not isinstance(long, int):
        short = long = None
    return StatedSettings(mean=_pixels(values.get("image_mean")), std=_pixels(values.get("image_std")), short_side=short, long_side=long)


def _pixels(values: Any) -> tuple[float, float, float] | None:
    """Means or deviations of 0..1 on our scale of 0..255; rounded to what publications print."""
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        return None
    first, second, third = (round(value * 255, 4) for value in values)
    return first, second, third


def label_names(names: Any) -> tuple[str, ...] | None:
    """`id2label` in order; None for the placeholders that stand there when nobody named the labels."""
    if not isinstance(names, dict) or not all(str(i) in names for i in range(len(names))):
        return None
    ordered = tuple(str(names[str(i)]) for i in range(len(names)))
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(ordered)) else ordered


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_json_settings(path: Path) -> dict[str, Any]:
    """A JSON file's settings. Raises CheckpointError: it cannot be read, or holds none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a configuration: it holds no settings")
    return values
