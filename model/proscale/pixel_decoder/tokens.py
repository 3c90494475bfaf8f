"""Feature levels as one sequence of tokens, coarse to fine, and their position terms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from proscale.layers.position import sine_position_like


def flatten_level(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C), row-major, contiguous."""
    return features.flatten(2).transpose(1, 2).contiguous()


def unflatten_levels(tokens: Tensor, spatial_shapes: Sequence[int]) -> list[Tensor]:
    """(B, N, C) -> one (B, C, h, w) per level of spatial_shapes h0, w0, h1, w1, ..."""
    shapes = list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
    levels = tokens.split([h * w for h, w in shapes], dim=1)
    # Views in channels_last; a transpose first would hide that from torch, and everything after would copy.
    return [level.unflatten(1, shape).permute(0, 3, 1, 2) for level, shape in zip(levels, shapes, strict=True)]


def token_positions(spatial_shapes: Sequence[int], level_embedding: Tensor) -> Tensor:
    """Sine position + the level's learnt embedding for the tokens of all levels.

    Args:
        spatial_shapes: h0, w0, h1, w1, ...
        level_embedding: (levels, C); row i belongs to level i.

    Returns:
        (N, C) on the embedding's device, in its dtype.
    """
    terms = []
    for i, (height, width) in enumerate(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True)):
        terms.append(sine_position_like(level_embedding, height, width) + level_embedding[i])
    return torch.cat(terms)
