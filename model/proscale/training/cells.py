"""A truth at the masks' own resolution: how much of every stride-4 cell belongs to which segment.

Random points miss small things: of nuclei at the embedded model's size, 1,024 points leave 15% without any point. Cells miss nothing.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Pixels of the network's input per cell side: the stride of mask logits."""
MATCHING_SIDE = 128
"""Costs of all pairs are computed on at most so many cells down and across."""


def cell_shares(ids: Tensor, segments: int) -> Tensor:
    """The share of each cell's pixels that belongs to each segment.

    Args:
        ids: (H, W) int64, 0 = void, i = segment i; H and W multiples of `STRIDE`.
        segments: how many there are, N.

    Returns:
        (N, H / 4, W / 4) float32 in 0..1.
    """
    height, width = ids.shape[0] // STRIDE, ids.shape[1] // STRIDE
    cell = torch.arange(height * width, device=ids.device).view(height, width)
    cell = cell.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)
    counts = torch.bincount((ids * (height * width) + cell).flatten(), minlength=(segments + 1) * height * width)
    return counts.view(segments + 1, height, width)[1:].float() / STRIDE**2


def for_matching(maps: Tensor) -> Tensor:
    """(N, h, w) -> (N, c): cells in a row, averaged over neighbours where there are more than `MATCHING_SIDE` of them on a side."""
    factor = -(-max(maps.shape[-2:]) // MATCHING_SIDE)
    if factor > 1:
        maps = F.avg_pool2d(maps[None], factor, ceil_mode=True, count_include_pad=False)[0]
    return maps.flatten(1)
