"""Semantic inference (arXiv 2107.06278, section 3.4)."""

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
