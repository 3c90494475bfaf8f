"""A network's configuration as plain JSON values and back: what `config.json` of a model folder holds. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from proscale.config import (
    BACKBONES,
    ENCODERS,
    ModelConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    PreprocessConfig,
    TransformerDecoderConfig,
    backbone_kind,
    encoder_kind,
)
from proscale.errors import CheckpointError

CONFIG_FILE = "config.json"


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The configuration as plain JSON values; which backbone and encoder it is stands in a `type` beside their fields."""
    values = asdict(config)
    values["backbone"] = {"type": backbone_kind(config.backbone)} | values["backbone"]
    values["pixel_decoder"]["encoder"] = {"type": encoder_kind(config.pixel_decoder.encoder)} | values["pixel_decoder"]["encoder"]
    return values


def config_from_json(values: Any, source: str | Path = CONFIG_FILE) -> ModelConfig:
    """The reverse of `config_to_json`; fields left out have their defaults, unknown ones are an error.

    Raises:
        CheckpointError: names the file and what is wrong in it.
    """
    try:
        values = dict(values)
        pixel_decoder = dict(values.pop("pixel_decoder", {}))
        encoder = _record(ENCODERS, pixel_decoder.pop("encoder", {"type": "proscale"}))
        return ModelConfig(
            backbone=_record(BACKBONES, values.pop("backbone")),
            pixel_decoder=_checked(PixelDecoderConfig, pixel_decoder | {"encoder": encoder}),
            transformer_decoder=_checked(TransformerDecoderConfig, values.pop("transformer_decoder", {})),
            preprocess=_checked(PreprocessConfig, values.pop("preprocess", {})),
            postprocess=_checked(PostprocessConfig, values.pop("postprocess", {})),
            **values,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source} is not a model configuration: {error}") from error


def _record(types: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in types:
        raise ValueError(f"type is {kind!r}, known are {', '.join(types)}")
    return _checked(types[kind], {name: value for name, value in values.items() if name != "type"})


def _checked(cls: Any, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(cls)}
    if unknown := values.keys() - known:
        raise ValueError(f"{cls.__name__} does not know {', '.join(sorted(unknown))}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
