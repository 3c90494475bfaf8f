"""The network that tensors belong to, read from their names and shapes alone.

What shapes cannot say is asked for by name: attention heads and sampling points outside Swin, the temperature of the token
re-calibration, and whether the encoder adds residuals.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from proscale.checkpoints.strict_loading import listed
from proscale.config import (
    PUBLISHED_BACKBONES,
    Backbone,
    Encoder,
    Mask2FormerEncoderConfig,
    PixelDecoderConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from proscale.errors import CheckpointError

_ENCODER = "pixel_decoder.encoder."


@dataclass(frozen=True)
class Architecture:
    """Everything of a `ModelConfig` that defines the network."""

    backbone: Backbone
    pixel_decoder: PixelDecoderConfig
    transformer_decoder: TransformerDecoderConfig
    classes: int


def recognise(
    state: Mapping[str, Tensor],
    heads: int = PixelDecoderConfig.heads,
    points: int = PixelDecoderConfig.points,
    temperature: float = ProScaleEncoderConfig.temperature,
    residual: bool = ProScaleEncoderConfig.residual,
) -> Architecture:
    """Read the architecture from tensors under our names.

    Args:
        state: the network's tensors.
        heads: attention heads of both encoder and decoder.
        points: sampling points per head and level.
        temperature, residual: of a PRO-SCALE encoder; nothing else looks at them.

    Raises:
        CheckpointError: a tensor that decides something is missing or of an impossible shape; the text names it.
    """
    queries, hidden = shape_of(state, "transformer_decoder.query_features", 2)
    if hidden % heads:
        raise CheckpointError(f"{hidden} channels cannot be shared by {heads} attention heads; give a configuration that says how many")
    pixel_decoder = PixelDecoderConfig(
        encoder=_encoder(state, heads, points, temperature, residual),
        hidden_dim=hidden,
        heads=heads,
        points=points,
        ffn_dim=shape_of(state, _ENCODER + "layers.0.ffn.linear1.weight", 2)[0],
        pixel_embedding="conv" if "pixel_decoder.pixel_embedding.output_conv.weight" in state else "maxpool",
    )
    transformer_decoder = TransformerDecoderConfig(
        layers=count_parts(state, "transformer_decoder.layers.{}."),
        queries=queries,
        ffn_dim=shape_of(state, "transformer_decoder.layers.0.ffn.linear1.weight", 2)[0],
        heads=heads,
    )
    classes = shape_of(state, "transformer_decoder.class_head.weight", 2)[0] - 1
    return Architecture(_backbone(state), pixel_decoder, transformer_decoder, classes)


def backbone_name(backbone: Backbone) -> str:
    """`Swin-T` for a published backbone, `Swin` or `ResNet` for any other."""
    family = "ResNet" if isinstance(backbone, ResNetConfig) else "Swin"
    return next((name for name, config in PUBLISHED_BACKBONES.items() if config == backbone), family)


def encoder_name(encoder: Encoder) -> str:
    """`Mask2Former (6 layers)` or `PRO-SCALE (3, 3, 3)`."""
    if isinstance(encoder, Mask2FormerEncoderConfig):
        return f"Mask2Former ({encoder.layers} layers)"
    return f"PRO-SCALE {encoder.layers}"


def _backbone(state: Mapping[str, Tensor]) -> Backbone:
    if "backbone.patch_embedding.projection.weight" in state:
        return _swin(state)
    if "backbone.stem.conv.weight" in state:
        return _resnet(state)
    found = {name.split(".")[1] for name in state if name.startswith("backbone.")}
    raise CheckpointError(f"the backbone is neither a Swin nor a plain ResNet; it has {listed(found) or 'no tensors'}")


def _swin(state: Mapping[str, Tensor]) -> SwinConfig:
    depths = tuple(count_parts(state, f"backbone.stages.{i}.blocks.{{}}.") for i in range(4))
    # The q, k and v matrices are square whatever the heads; the bias table has a column for each head and a row for each offset.
    tables = [shape_of(state, f"backbone.stages.{i}.blocks.0.attention.relative_position_bias", 2) for i in range(4)]
    windows = {(math.isqrt(rows) + 1) // 2 for rows, _ in tables}
    window = windows.pop()
    if windows or any(rows != (2 * window - 1) ** 2 for rows, _ in tables):
        raise CheckpointError("Swin's relative position tables are not those of one window size")
    heads = tuple(columns for _, columns in tables)
    embed_dim = shape_of(state, "backbone.patch_embedding.projection.weight", 4)[0]
    return SwinConfig(embed_dim, _four(depths), _four(heads), window)


def _resnet(state: Mapping[str, Tensor]) -> ResNetConfig:
    if "backbone.stages.0.0.conv3.conv.weight" not in state:
        raise CheckpointError("the ResNet has no bottleneck blocks (ResNet-18 or -34); ResNet-50 and deeper are supported")
    blocks = tuple(count_parts(state, f"backbone.stages.{i}.{{}}.") for i in range(4))
    channels, bottleneck, *_ = shape_of(state, "backbone.stages.0.0.conv3.conv.weight", 4)
    return ResNetConfig(shape_of(state, "backbone.stem.conv.weight", 4)[0], channels, bottleneck, _four(blocks))


def _encoder(state: Mapping[str, Tensor], heads: int, points: int, temperature: float, residual: bool) -> Encoder:
    gate = state.get(_ENCODER + "recalibration.gate.weight")
    levels = []
    for i in range(count_parts(state, _ENCODER + "layers.{}.")):
        rows = shape_of(state, f"{_ENCODER}layers.{i}.attention.sampling_offsets.weight", 2)[0]
        level, rest = divmod(rows, heads * points * 2)
        if rest or not 1 <= level <= 3:
            raise CheckpointError(
                f"encoder layer {i} has {rows} sampling offsets, which {heads} heads with {points} points cannot share "
                "among 1 to 3 levels; give a configuration that says how many heads there are"
            )
        levels.append(level)
    if levels != sorted(levels):
        raise CheckpointError(f"the encoder's layers see {levels} levels; PRO-SCALE's see more and more of them")
    if set(levels) == {3} and gate is None and not residual:
        return Mask2FormerEncoderConfig(len(levels))
    recalibration: Literal["linear", "conv", "none"] = "none" if gate is None else "linear" if gate.ndim == 2 else "conv"
    return ProScaleEncoderConfig((levels.count(1), levels.count(2), levels.count(3)), recalibration, temperature, residual)


def shape_of(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """A tensor's shape. Raises CheckpointError when it is missing, or has another number of dimensions."""
    if name not in state:
        raise CheckpointError(f"the checkpoint is not a whole network: {name} is missing")
    if state[name].ndim != dimensions:
        raise CheckpointError(f"{name} is {tuple(state[name].shape)}, but should have {dimensions} dimensions")
    return tuple(state[name].shape)


def count_parts(state: Mapping[str, Tensor], template: str) -> int:
    """How many numbers from 0 on stand in the place of `{}`."""
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))
    numbers = {int(match[1]) for name in state if (match := pattern.match(name))}
    if not numbers or numbers != set(range(len(numbers))):
        missing = set(range(max(numbers, default=0) + 1)) - numbers
        raise CheckpointError(f"the checkpoint is not a whole network: {listed(template.format(i) + '*' for i in missing)} missing")
    return len(numbers)


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    first, second, third, fourth = values
    return first, second, third, fourth
