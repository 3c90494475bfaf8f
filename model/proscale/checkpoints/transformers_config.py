"""transformers' `config.json` and `preprocessor_config.json`: what they say when read, and what they must say when written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proscale.checkpoints.stated_settings import StatedSettings
from proscale.checkpoints.transformers_names import NO_OBJECT_WEIGHT
from proscale.config import Mask2FormerEncoderConfig, ModelConfig, PreprocessConfig, ResNetConfig
from proscale.errors import CheckpointError
from proscale.labels import Category

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""PIL's filters by their numbers."""
UNBOUNDED = 10_000_000
"""Pixels of the long side where nothing bounds it."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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


def read_transformers_config(path: Path, with_preprocessor: bool = True) -> StatedSettings:
    """Read a `config.json`, and the `preprocessor_config.json` beside it unless it is to be left out.

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
    hints = StatedSettings(
        heads=heads,
        points=POINTS,
        label_names=label_names(values.get("id2label")),
        label_ids=label_ids(values.get("id2label")),
        claims=tuple(claims.items()),
    )
    processor = path.with_name(PREPROCESSOR_FILE)
    if not with_preprocessor:
        return hints
    return hints.or_else(preprocessing(read_json_settings(processor), processor)) if processor.is_file() else hints


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
        "do_resize": size.resize,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": FILTERS.index(size.filter),
        "size": {"shortest_edge": size.short_side, "longest_edge": size.long_side}
        if size.size is None
        else {"height": size.size[0], "width": size.size[1]},
        "size_divisor": size.size_divisor,
        "image_mean": fractions(size.mean),
        "image_std": fractions(size.std),
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


def preprocessing(values: Mapping[str, Any], path: Path) -> StatedSettings:
    """What a `preprocessor_config.json` does to pictures, on our scale of 0..255.

    Raises:
        CheckpointError: it does what is not done here; the text says what, and how to go on.
    """

    def refuse(field: str, why: str) -> CheckpointError:
        return CheckpointError(f"{path}: {field} is {values.get(field)!r}; {why}. Convert with --size to leave the file out of it.")

    if values.get("do_center_crop") is True:
        raise refuse("do_center_crop", "pictures are never cropped here")
    resample = values.get("resample", 2)
    if resample not in range(len(FILTERS)):
        raise refuse("resample", f"PIL's filters are 0 to {len(FILTERS) - 1}")
    divisor = values.get("size_divisor", values.get("size_divisibility"))
    if divisor is not None and (not isinstance(divisor, int) or divisor < 0 or divisor % 32):
        raise refuse("size_divisor", "sides must be multiples of 32")
    size, resize = values.get("size"), values.get("do_resize", True) is not False
    edges = size if isinstance(size, Mapping) else {}
    short, long = edges.get("shortest_edge"), edges.get("longest_edge")
    if isinstance(size, int):
        short, long = size, values.get("max_size")
    fixed = (edges["height"], edges["width"]) if isinstance(edges.get("height"), int) and isinstance(edges.get("width"), int) else None
    multiple = PreprocessConfig.size_divisor if divisor is None else divisor or 1
    if fixed is not None:
        fixed = (-(-fixed[0] // multiple) * multiple, -(-fixed[1] // multiple) * multiple)
    if isinstance(short, int) and long is None:
        long = values.get("max_size") if isinstance(values.get("max_size"), int) else UNBOUNDED
    if not isinstance(short, int) or not isinstance(long, int):
        short = long = None
    mean, std = _colours(values, path)
    return StatedSettings(
        mean=mean,
        std=std,
        short_side=short,
        long_side=long,
        size=fixed if resize else None,
        resize=False if not resize else None,
        size_divisor=divisor or None,
        # transformers stretches both sides to multiples; where it does neither, padding is what the network needs.
        align="stretch" if resize and divisor != 0 else None,
        filter=FILTERS[resample],
    )


def _colours(values: Mapping[str, Any], path: Path) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """Mean and deviation on 0..255. What is read is (x * factor - mean) / std; ours is (x - mean / factor) / (std / factor)."""
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) is not False else 1.0
    if not isinstance(factor, int | float) or factor <= 0:
        raise CheckpointError(f"{path}: rescale_factor is {factor!r}, not a number above 0")
    if values.get("do_normalize", True) is False:
        return (0.0, 0.0, 0.0), (round(1 / factor, 4),) * 3
    usual = abs(factor - 1 / 255) < 1e-9
    mean = values.get("image_mean") or (None if usual else IMAGENET_MEAN)
    std = values.get("image_std") or (None if usual else IMAGENET_STD)
    return _pixels(mean, factor), _pixels(std, factor)


def _pixels(values: Any, factor: float) -> tuple[float, float, float] | None:
    """Means or deviations on our scale of 0..255; rounded to what publications print."""
    if isinstance(values, int | float):
        values = [values] * 3
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        return None
    first, second, third = (round(value / factor, 4) for value in values)
    return first, second, third


def fractions(values: Sequence[float]) -> list[float]:
    """Means or deviations of 0..255 on transformers' scale of 0..1, without the division's last bits: 0.224, not 0.22399999999999998."""
    return [round(value / 255, 10) for value in values]


def label_names(names: Any) -> tuple[str, ...] | None:
    """`id2label` in the order of its numbers; None for the placeholders that stand there when nobody named the labels."""
    numbered = _numbered(names)
    if not numbered or all(name == f"LABEL_{number}" for number, name in numbered):
        return None
    return tuple(name for _, name in numbered)


def label_ids(names: Any) -> tuple[int, ...] | None:
    """The numbers of `id2label`, in order."""
    return tuple(number for number, _ in _numbered(names)) or None


def _numbered(names: Any) -> list[tuple[int, str]]:
    if not isinstance(names, Mapping):
        return []
    if not all(isinstance(name, str) and name.strip() for name in names.values()):
        return []  # null or a number names nothing
    try:
        return sorted((int(number), name) for number, name in names.items())
    except (TypeError, ValueError):
        return []


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
