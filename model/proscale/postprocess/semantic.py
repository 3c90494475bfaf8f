"""Semantic inference (arXiv 2107.06278, section 3.4)."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from proscale.postprocess.resize import resize_in_strips


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Score of every class at every pixel: sum over queries of class probability (void left out) x mask probability.

    Args:
        class_logits: (Q, K + 1) float.
        mask_logits: (Q, H, W) float at the output size.

    Returns:
        (K, H, W) float, at least 0, not normalised.
    """
    return torch.einsum("qk,qhw->khw", class_logits.softmax(-1)[:, :-1], mask_logits.sigmoid())


def semantic_strips(
    class_logits: Tensor, mask_logits: Tensor, sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]], combine_first: bool
) -> Iterable[Tensor]:
    """Scores of classes (K, rows, W) of strips that follow each other from the top.

    Args:
        class_logits, mask_logits: (Q, K + 1) and (Q, h, w) float.
        sizes: (height, width) of the network's input, of the picture in it, and of the output.
        combine_first: sum the queries up at the resized picture's size, and resize the scores.
    """
    combine = partial(semantic_inference, class_logits)
    if combine_first:
        return (scores for _, scores in resize_in_strips(mask_logits, *sizes, combine=combine))
    return (combine(logits) for _, logits in resize_in_strips(mask_logits, *sizes))


def best_classes(strips: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The best class of every pixel, strip by strip.

    Args:
        strips: scores (K, rows, W) of strips that follow each other from the top.

    Returns:
        class indices (H, W) int64, and the best class's share of all classes' scores there (H, W) float in 0..1.
    """
    winners, shares = [], []
    for scores in strips:
        best, winner = scores.max(0)
        winners.append(winner)
        shares.append(best / scores.sum(0).clamp_min(1e-6))
    return torch.cat(winners), torch.cat(shares)
