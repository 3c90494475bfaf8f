"""Masks at sampled points instead of at every pixel (PointRend, arXiv 1912.08193; arXiv 2112.01527, section 3.3).

A truth is one map of ids, so that hundreds of target masks cost one look-up per point. Points are (x, y) in 0..1 of the padded picture.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

OVERSAMPLING, UNCERTAIN_SHARE = 3, 0.75


def sample_logits(mask_logits: Tensor, points: Tensor) -> Tensor:
    """Mask logits (N, h, w), bilinear, at points (N, P, 2) of each mask: (N, P)."""
    return F.grid_sample(mask_logits[:, None], points[:, None] * 2 - 1, align_corners=False)[:, 0, 0]


def sample_logits_at_shared_points(mask_logits: Tensor, points: Tensor) -> Tensor:
    """Mask logits (N, h, w), bilinear, at the same points (P, 2) in all masks: (N, P)."""
    return F.grid_sample(mask_logits[None], points[None, None] * 2 - 1, align_corners=False)[0, :, 0]


def sample_ids(ids: Tensor, points: Tensor) -> Tensor:
    """Ids at points, by nearest neighbour.

    Args:
        ids: (H, W) or (N, H, W) int64.
        points: (P, 2), or (N, P, 2) for N maps.

    Returns:
        (P,) or (N, P) int64.
    """
    height, width = ids.shape[-2:]
    x = (points[..., 0] * width).long().clamp(0, width - 1)
    y = (points[..., 1] * height).long().clamp(0, height - 1)
    if ids.ndim == 2:
        return ids[y, x]
    return ids.flatten(1).gather(1, y * width + x)


def uncertain_points(mask_logits: Tensor, count: int) -> Tensor:
    """Points where a mask is undecided, and some anywhere: (N, count, 2) for mask logits (N, h, w).

    Of three times as many random points those nearest to a logit of 0 are taken for three quarters of the result.
    """
    masks = len(mask_logits)
    candidates = torch.rand(masks, OVERSAMPLING * count, 2, device=mask_logits.device)
    uncertain = int(UNCERTAIN_SHARE * count)
    nearest = (-sample_logits(mask_logits, candidates).abs()).topk(uncertain, dim=1).indices
    chosen = candidates.gather(1, nearest[:, :, None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(masks, count - uncertain, 2, device=mask_logits.device)], dim=1)
