"""Instance inference (arXiv 2112.01527; the published code's ranking)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def instance_inference(
    class_logits: Tensor,
    masks_of: Callable[[Tensor], Tensor],
    is_thing: Sequence[bool],
    max_instances: int = 100,
    mask_threshold: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best queries x classes as instances; masks may overlap, and one query may appear with several classes.

    Args:
        class_logits: (Q, K + 1) float.
        masks_of: indices (N,) of queries -> their mask logits (N, H, W) at the output size.
        is_thing: per class. The ranking is over all classes; stuff is taken out of it afterwards.
        max_instances: length of the ranking.
        mask_threshold: probability in (0, 1) above which a pixel is inside a mask.

    Returns:
        masks (N, H, W) bool, empty ones included; class indices (N,) int64; scores (N,) float, class probability x mean mask
        probability inside the mask. Highest class probability first.
    """
    classes = class_logits.shape[1] - 1
    probabilities = class_logits.softmax(-1)[:, :-1].flatten()
    class_scores, ranked = probabilities.topk(min(max_instances, len(probabilities)))
    things = torch.tensor(list(is_thing), dtype=torch.bool, device=class_logits.device)[ranked % classes]
    class_scores, ranked = class_scores[things], ranked[things]
    # A query that is ranked with several classes is resized once.
    queries, row = (ranked // classes).unique(return_inverse=True)
    mask_logits = masks_of(queries)
    own = mask_logits > math.log(mask_threshold / (1 - mask_threshold))
    mask_probabilities = mask_logits.sigmoid()
    inside = (mask_probabilities * own).flatten(1).sum(1) / (own.flatten(1).sum(1) + 1e-6)
    return own[row], ranked % classes, class_scores * inside[row]
