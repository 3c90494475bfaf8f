"""A network's configuration as plain JSON values and back: what `config.json` of a model folder holds. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from proscale.config import (
    BACKBONES,
    ENCODERS,
    HEADS,
    EomtModelConfig,
    MixTransformerConfig,
    ModelConfig,
    NetworkConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    PreprocessConfig,
    SemanticModelConfig,
    SlideConfig,
    TransformerDecoderConfig,
    backbone_kind,
    encoder_kind,
    head_kind,
)
from proscale.errors import CheckpointError

CONFIG_FILE = "config.json"

_KINDS: dict[str, type] = {"eomt": EomtModelConfig, "semantic": SemanticModelConfig}
"""Kinds of networks beside Mask2Former, whose files name none."""
_SINCE_FIRST = {
    "preprocess": ("align", "size", "pad_to", "padding", "rounding", "training_side"),
    "postprocess": ("connected", "join_share", "min_pixels", "resize_twice"),
    "backbone": ("shrink",),
    "head": ("query_grid",),
}
"""Fields that came later: left out where they have their defaults, so that the first versions read what they can serve."""


def config_to_json(config: NetworkConfig) -> dict[str, Any]:
    """The configuration as plain JSON values; which kind, backbone, encoder or head it is stands beside their fields."""
    values = asdict(config)
    for part, names in _SINCE_FIRST.items():
        if part not in values:
            continue
        later = {field.name: field.default for field in fields(getattr(config, part)) if field.name in names}
        values[part] = {name: value for name, value in values[part].items() if name not in later or value != later[name]}
    values["backbone"] = {"type": backbone_kind(config.backbone)} | values["backbone"]
    if isinstance(config, ModelConfig):
        values["pixel_decoder"]["encoder"] = {"type": encoder_kind(config.pixel_decoder.encoder)} | values["pixel_decoder"]["encoder"]
        return values
    if isinstance(config, SemanticModelConfig):
        values["head"] = {"type": head_kind(config.head)} | values["head"]
    return {"kind": next(name for name, cls in _KINDS.items() if isinstance(config, cls))} | values


def config_from_json(values: Any, source: str | Path = CONFIG_FILE) -> NetworkConfig:
    """The reverse of `config_to_json`; fields left out have their defaults, unknown ones are an error.

    Raises:
        CheckpointError: names the file and what is wrong in it.
    """
    try:
        values = dict(values)
        kind = values.pop("kind", None)
        if kind is not None and kind not in _KINDS:
            raise ValueError(f"kind is {kind!r}, known are {', '.join(_KINDS)}, or none for Mask2Former and PRO-SCALE")
        values["backbone"] = _record(BACKBONES, values["backbone"])
        for part, cls in (("preprocess", PreprocessConfig), ("postprocess", PostprocessConfig)):
            values[part] = _checked(cls, values.get(part, {}))
        if kind is None:
            return _mask2former(values)
        if values.get("slide") is not None:
            values["slide"] = _checked(SlideConfig, values["slide"])
        if kind == "semantic":
            values["head"] = _record(HEADS, values["head"])
        config: NetworkConfig = _checked(_KINDS[kind], values)
        return config
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source} is not a model configuration: {error}") from error


def family_of(config: NetworkConfig) -> tuple[str, tuple[int, ...]]:
    """The family that users know a network by, and its layers: `ModelInfo.encoder` and `layers`."""
    if isinstance(config, ModelConfig):
        encoder = config.pixel_decoder.encoder
        return encoder_kind(encoder), encoder.layers if isinstance(encoder.layers, tuple) else (encoder.layers,)
    backbone = config.backbone
    layers = backbone.depths if isinstance(backbone, MixTransformerConfig) else (backbone.layers,)
    return head_kind(config.head) if isinstance(config, SemanticModelConfig) else "eomt", layers


def _mask2former(values: dict[str, Any]) -> ModelConfig:
    pixel_decoder = dict(values.pop("pixel_decoder", {}))
    encoder = _record(ENCODERS, pixel_decoder.pop("encoder", {"type": "proscale"}))
    return ModelConfig(
        pixel_decoder=_checked(PixelDecoderConfig, pixel_decoder | {"encoder": encoder}),
        transformer_decoder=_checked(TransformerDecoderConfig, values.pop("transformer_decoder", {})),
        **values,
    )


def _record(types: Mapping[str, type], values: Mapping[str, Any]) -> Any:
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in types:
        raise ValueError(f"type is {kind!r}, known are {', '.join(types)}")
    return _checked(types[kind], {name: value for name, value in values.items() if name != "type"})


def _checked(cls: Any, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(cls)}
    if unknown := values.keys() - known:
        raise ValueError(f"{cls.__name__} does not know {', '.join(sorted(unknown))}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
