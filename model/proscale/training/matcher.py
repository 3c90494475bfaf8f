"""Which query answers for which segment: the cheapest one-to-one assignment (DETR, arXiv 2005.12872; arXiv 2112.01527, section 3.3)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from proscale.training.points import sample_ids, sample_logits_at_shared_points


def matching_cost(
    class_logits: Tensor, sampled: Tensor, target: Tensor, classes: Tensor, class_weight: float, mask_weight: float, dice_weight: float
) -> Tensor:
    """Cost of every pair: -p(class), binary cross-entropy and dice at sampled points.

    Args:
        class_logits: (Q, K + 1).
        sampled: (Q, P) mask logits at points.
        target: (N, P) float, 1 inside the segment.
        classes: (N,) int64.

    Returns:
        (Q, N).
    """
    points = sampled.shape[1]
    # Cross-entropy with a 0/1 target splits into a part for the ones and one for the zeros: two matrix products for all pairs.
    cross_entropy = (F.softplus(-sampled) @ target.T + F.softplus(sampled) @ (1 - target).T) / points
    probability = sampled.sigmoid()
    dice = 1 - (2 * probability @ target.T + 1) / (probability.sum(1)[:, None] + target.sum(1)[None] + 1)
    return mask_weight * cross_entropy + dice_weight * dice - class_weight * class_logits.softmax(-1)[:, classes]


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    ids: Tensor,
    classes: Tensor,
    points: int,
    weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
) -> tuple[Tensor, Tensor]:
    """Match the queries of one picture to its segments.

    Args:
        class_logits: (Q, K + 1); mask_logits: (Q, h, w).
        ids: (H, W) int64, segment i of `classes` is i + 1, void is 0.
        classes: (N,) int64.
        points: how many random points costs are taken at.
        weights: of class, mask and dice cost.

    Returns:
        queries (M,) and the segments (M,) they answer for, M = min(Q, N), on the CPU.
    """
    if not len(classes):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    where = torch.rand(points, 2, device=mask_logits.device)
    sampled = sample_logits_at_shared_points(mask_logits.float(), where)
    numbers = torch.arange(1, len(classes) + 1, device=ids.device)
    target = (sample_ids(ids, where)[None] == numbers[:, None]).float()
    cost = matching_cost(class_logits.float(), sampled, target, classes, *weights)
    queries, segments = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries), torch.as_tensor(segments)
