"""Sine position encoding of a feature level (DETR, arXiv 2005.12872, appendix A.4)."""

import math

import torch
from torch import Tensor

from proscale.ops.constants import constant_tensor

TEMPERATURE = 10_000.0


def sine_position_like(tokens: Tensor, height: int, width: int) -> Tensor:
    """`sine_position` for tokens (..., height * width, C): (height * width, C) on their device, in their dtype."""
    return _sine_position_on(height, width, tokens.shape[-1], tokens.device, tokens.dtype)


@constant_tensor(maxsize=256)
def _sine_position_on(height: int, width: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return sine_position(height, width, dim).to(device, dtype)


@constant_tensor(maxsize=256)
def sine_position(height: int, width: int, dim: int) -> Tensor:
    """Sines and cosines of the row, then of the column, of every token; half of the channels each.

    Positions count from 1 and are normalised to 2 pi; sine and cosine interleave.

    Args:
        height, width: of the feature level in tokens.
        dim: channels, a multiple of 4.

    Returns:
        (height * width, dim) float32 on the CPU, row-major.
    """
    if dim % 4:
        raise ValueError(f"sine position encoding needs a multiple of 4 channels, not {dim}")
    exponent = 2 * torch.div(torch.arange(dim // 2), 2, rounding_mode="floor") / (dim // 2)
    frequencies = TEMPERATURE**exponent

    def axis(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32)
        angle = (position / (position[-1] + 1e-6) * 2 * math.pi)[:, None] / frequencies
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    rows = axis(height)[:, None].expand(height, width, -1)
    columns = axis(width)[None].expand(height, width, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
