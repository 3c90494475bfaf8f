"""PRO-SCALE's encoder: token length grows with depth (arXiv 2404.14657, section 3.2), tokens re-calibrated (section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import PixelDecoderConfig, ProScaleEncoderConfig
from proscale.pixel_decoder.encoder_layer import EncoderLayer
from proscale.pixel_decoder.tokens import flatten_level, token_positions, unflatten_levels


class TokenRecalibration(nn.Module):
    """TRC: coarse tokens are gated by what the finest level holds at their place.

    Both variants read the finest level's (B, L, C) tokens as if they were (B, C, H, W), without transposing. That mixes channels
    and positions; the published weights were trained with it, so it is part of the definition.
    """

    def __init__(self, dim: int, variant: str, temperature: float) -> None:
        super().__init__()
        self.variant, self.temperature = variant, temperature
        self.gate: nn.Module = nn.Linear(dim, 1) if variant == "linear" else nn.Conv2d(dim, 1, kernel_size=1)

    def forward(self, tokens: Tensor, size: Sequence[int], finest: Tensor, finest_size: Sequence[int]) -> Tensor:
        """Gate one level.

        Args:
            tokens: (B, h * w, C) of the level gated.
            size: (h, w) of that level.
            finest: (B, H * W, C), contiguous, tokens of the projected res3.
            finest_size: (H, W).

        Returns:
            (B, h * w, C): tokens x sigmoid(temperature x gate(finest resized to the level)).
        """
        batch, _, channels = tokens.shape
        guide = F.interpolate(finest.view(batch, channels, *finest_size), size=tuple(size), mode="bilinear", align_corners=False)
        if self.variant == "linear":
            gate = torch.sigmoid(self.temperature * self.gate(guide.reshape(batch, -1, channels)))
            return tokens * gate
        gate = torch.sigmoid(self.temperature * self.gate(guide))
        return (tokens.view(batch, channels, *size) * gate).reshape(batch, -1, channels)


class ProScaleEncoder(nn.Module):
    """Three stages of p1, p2, p3 layers over [res5], [res5, res4], [res5, res4, res3]."""

    def __init__(self, config: PixelDecoderConfig, encoder: ProScaleEncoderConfig) -> None:
        super().__init__()
        self.stage_layers, self.residual = encoder.layers, encoder.residual
        self.depth: int | None = None
        """How many of the last stage's layers run; None: all."""
        self.layers = nn.ModuleList(
            EncoderLayer(config.hidden_dim, config.heads, stage + 1, config.points, config.ffn_dim)
            for stage, count in enumerate(encoder.layers)
            for _ in range(count)
        )
        self.level_embedding = nn.Parameter(torch.randn(3, config.hidden_dim))
        self.recalibration = (
            None if encoder.recalibration == "none" else TokenRecalibration(config.hidden_dim, encoder.recalibration, encoder.temperature)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Refine the projected res5, res4, res3, each (B, C, h, w); same order and shapes out."""
        shapes = [size for level in levels for size in level.shape[2:]]
        position = token_positions(shapes, self.level_embedding)
        inputs = [flatten_level(level) for level in levels]
        if self.recalibration is not None:
            finest, finest_size = inputs[2], shapes[4:]
            inputs[:2] = [self.recalibration(inputs[i], shapes[2 * i : 2 * i + 2], finest, finest_size) for i in range(2)]
        tokens, layers = inputs[0], iter(self.layers)
        for stage, count in enumerate(self.stage_layers):
            if stage:
                tokens = torch.cat([tokens, inputs[stage]], dim=1)
            # The residual adds gated but unrefined tokens in both stages, not the output of the stage before.
            unrefined = torch.cat(inputs[: stage + 1], dim=1) if self.residual and stage < 2 else None
            following = [next(layers) for _ in range(count)]
            for layer in following if stage < 2 else following[: self.depth]:
                tokens = layer(tokens, position[: tokens.shape[1]], shapes[: 2 * stage + 2])
                if unrefined is not None:
                    tokens = tokens + unrefined
        return unflatten_levels(tokens, shapes)
