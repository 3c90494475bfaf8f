"""Semantic inference (arXiv 2107.06278, section 3.4)."""

from collections.abc import Iterable

import torch
from torch import Tensor


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Score of every class at every pixel: sum over queries of class probability (void left out) x mask probability.

    Args:
        class_logits: (Q, K + 1) float.
        mask_logits: (Q, H, W) float at the output size.

    Returns:
        (K, H, W) float, at least 0, not normalised.
    """
    return torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], mask_logits.sigmoid())


def semantic_map(class_logits: Tensor, strips: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """The best class of every pixel, strip by strip.

    Args:
        class_logits: (Q, K + 1) float.
        strips: first row and mask logits (Q, rows, W) of strips that follow each other from the top (`resize_in_strips`).

    Returns:
        class indices (H, W) int64, and the best class's share of all classes' scores there (H, W) float in 0..1.
    """
    return best_classes(semantic_inference(class_logits, mask_logits) for _, mask_logits in strips)


def best_classes(strips: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """`semantic_map` for scores (K, rows, W) that have been made already."""
    winners, shares = [], []
    for scores in strips:
        best, winner = scores.max(0)
        winners.append(winner)
        shares.append(best / scores.sum(0).clamp_min(1e-6))
    return torch.cat(winners), torch.cat(shares)
