"""A PRO-SCALE network that starts from a trained Mask2Former: its encoder's weights, cut down to the levels that each layer sees."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proscale.config import Mask2FormerEncoderConfig, ModelConfig, ProScaleEncoderConfig
from proscale.errors import CheckpointError

LEVELS = 3
_LAYER = "pixel_decoder.encoder.layers."
_BY_LEVEL = {"attention.sampling_offsets": 2, "attention.attention_weights": 1}
"""Projections with rows for every head, level and point, in that order -> values per point."""


@dataclass(frozen=True)
class WarmStart:
    """The new network, and where its layers come from."""

    config: ModelConfig
    state: dict[str, Tensor]
    sources: tuple[int, ...]
    """For each of the new encoder's layers, which of the old encoder's feeds it."""


def source_layers(new: int, old: int) -> tuple[int, ...]:
    """Which old layer feeds each new one: spread evenly, so that the first and last keep their place.

    With 9 new layers and 6 old ones: 0, 1, 1, 2, 2, 3, 4, 4, 5.
    """
    if new == 1 or old == 1:
        return (old - 1,) * new
    # Halves round down, by integers, so that no floating point decides which weights are taken.
    return tuple((2 * i * (old - 1) + (new - 1) - 1) // (2 * (new - 1)) for i in range(new))


def warm_start(config: ModelConfig, state: Mapping[str, Tensor], encoder: ProScaleEncoderConfig) -> WarmStart:
    """Turn a Mask2Former network into a PRO-SCALE one that can be fine-tuned.

    Levels are ordered coarse to fine in both, so a layer that sees n levels takes the first n levels' rows of its source. The
    attention weights' softmax then runs over these levels alone: what the source gave to the finer levels is shared out among
    them. With token re-calibration the gate starts at zero, which multiplies every gated token by one half; with `none` the
    coarse tokens start unchanged. The light pixel embedding drops the 3x3 convolution and keeps the norms.

    Raises:
        CheckpointError: the source's encoder is not Mask2Former's.
    """
    old = config.pixel_decoder.encoder
    if not isinstance(old, Mask2FormerEncoderConfig):
        raise CheckpointError("a warm start needs a Mask2Former checkpoint; this one already has a PRO-SCALE encoder")
    pixel = config.pixel_decoder
    started = {name: tensor for name, tensor in state.items() if not name.startswith(_LAYER)}
    sources = source_layers(sum(encoder.layers), old.layers)
    seen = [stage + 1 for stage, count in enumerate(encoder.layers) for _ in range(count)]
    for i, (source, levels) in enumerate(zip(sources, seen, strict=True)):
        prefix = f"{_LAYER}{source}."
        for name, tensor in state.items():
            if name.startswith(prefix):
                leaf = name.removeprefix(prefix)
                width = next((width for part, width in _BY_LEVEL.items() if leaf.startswith(part)), None)
                cut = tensor if width is None else keep_levels(tensor, levels, pixel.heads, pixel.points, width)
                started[f"{_LAYER}{i}.{leaf}"] = cut.clone()
    if encoder.recalibration != "none":
        shape = (1, pixel.hidden_dim) + ((1, 1) if encoder.recalibration == "conv" else ())
        started["pixel_decoder.encoder.recalibration.gate.weight"] = torch.zeros(shape)
        started["pixel_decoder.encoder.recalibration.gate.bias"] = torch.zeros(1)
    started.pop("pixel_decoder.pixel_embedding.output_conv.weight", None)
    decoder = replace(pixel, encoder=encoder, pixel_embedding="maxpool")
    return WarmStart(replace(config, pixel_decoder=decoder), started, sources)


def keep_levels(tensor: Tensor, levels: int, heads: int, points: int, width: int) -> Tensor:
    """The rows of the first `levels` of three levels.

    Args:
        tensor: (heads * 3 * points * width, ...), rows ordered heads, levels, points, values.

    Returns:
        (heads * levels * points * width, ...), in the same order.
    """
    kept: Tensor = tensor.unflatten(0, (heads, LEVELS, points, width)).narrow(1, 0, levels).flatten(0, 3)
    return kept
