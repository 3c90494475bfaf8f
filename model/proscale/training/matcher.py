"""Which query answers for which segment: the cheapest one-to-one assignment (DETR, arXiv 2005.12872; arXiv 2112.01527, section 3.3)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from proscale.training.cells import for_matching


def matching_cost(
    class_logits: Tensor, masks: Tensor, target: Tensor, classes: Tensor, class_weight: float, mask_weight: float, dice_weight: float
) -> Tensor:
    """Cost of every pair: -p(class), binary cross-entropy and dice over all cells.

    Args:
        class_logits: (Q, K + 1).
        masks: (Q, c) mask logits.
        target: (N, c) float, share of the cell inside the segment.
        classes: (N,) int64.

    Returns:
        (Q, N).
    """
    # softplus(x) - t x is the cross-entropy of x with target t, so one matrix product serves all pairs.
    cross_entropy = (F.softplus(masks).sum(1)[:, None] - masks @ target.T) / masks.shape[1]
    probability = masks.sigmoid()
    dice = 1 - (2 * probability @ target.T + 1) / (probability.sum(1)[:, None] + target.sum(1)[None] + 1)
    return mask_weight * cross_entropy + dice_weight * dice - class_weight * class_logits.softmax(-1)[:, classes]


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    shares: Tensor,
    classes: Tensor,
    weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
    points: int = 0,
) -> tuple[Tensor, Tensor]:
    """Match the queries of one picture to its segments.

    Args:
        class_logits: (Q, K + 1); mask_logits: (Q, h, w).
        shares: (N, h, w), see `cell_shares`.
        classes: (N,) int64.
        weights: of class, mask and dice cost.
        points: random cells at which masks are compared; 0: all.

    Returns:
        queries (M,) and the segments (M,) they answer for, M = min(Q, N), on the CPU.
    """
    if not len(classes):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    masks, target = for_matching(mask_logits.float()), for_matching(shares)
    if points:
        chosen = torch.randint(masks.shape[1], (points,), device=masks.device)
        masks, target = masks[:, chosen], target[:, chosen]
    cost = matching_cost(class_logits.float(), masks, target, classes, *weights)
    queries, segments = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries), torch.as_tensor(segments)
