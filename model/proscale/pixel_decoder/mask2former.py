"""Mask2Former's encoder: every layer attends to all three levels (arXiv 2112.01527, section 3.2.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proscale.config import Mask2FormerEncoderConfig, PixelDecoderConfig
from proscale.pixel_decoder.encoder_layer import EncoderLayer
from proscale.pixel_decoder.tokens import flatten_level, token_positions, unflatten_levels


class Mask2FormerEncoder(nn.Module):
    """n layers over [res5, res4, res3]."""

    def __init__(self, config: PixelDecoderConfig, encoder: Mask2FormerEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config.hidden_dim, config.heads, 3, config.points, config.ffn_dim) for _ in range(encoder.layers)
        )
        self.level_embedding = nn.Parameter(torch.randn(3, config.hidden_dim))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Refine the projected res5, res4, res3, each (B, C, h, w); same order and shapes out."""
        shapes = [size for level in levels for size in level.shape[2:]]
        position = token_positions(shapes, self.level_embedding)
        tokens = torch.cat([flatten_level(level) for level in levels], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, position, shapes)
        return unflatten_levels(tokens, shapes)
