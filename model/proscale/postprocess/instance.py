"""Instance inference (arXiv 2112.01527; the published code's ranking)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proscale.postprocess.resize import queries_at_once


def instance_inference(
    class_logits: Tensor,
    masks_of: Callable[[Tensor], Tensor],
    size: Sequence[int],
    is_thing: Sequence[bool],
    max_instances: int = 100,
    mask_threshold: float = 0.5,
    min_score: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best queries x classes as instances; masks may overlap, and one query may appear with several classes.

    Args:
        class_logits: (Q, K + 1) float.
        masks_of: indices (N,) of queries -> their mask logits (N, *size).
        size: (H, W) of the masks in pixels.
        is_thing: per class. The ranking is over all classes; stuff is taken out of it afterwards.
        max_instances: length of the ranking.
        mask_threshold: probability in (0, 1) above which a pixel is inside a mask.
        min_score: leave out instances with a score at or below this; None keeps all, as published. Masks are not even resized
            where the class probability, which bounds the score, is that low.

    Returns:
        masks (N, H, W) bool, empty ones included; class indices (N,) int64; scores (N,) float, class probability x mean mask
        probability inside the mask. Highest class probability first.
    """
    queries, row, class_indices, class_scores = rank_instances(class_logits, is_thing, max_instances, min_score)
    own = torch.empty(len(queries), *size, dtype=torch.bool, device=class_logits.device)
    confidence = torch.empty(len(queries), device=class_logits.device)
    logit_threshold = math.log(mask_threshold / (1 - mask_threshold))
    for part in torch.arange(len(queries)).split(queries_at_once(size)):
        mask_logits = masks_of(queries[part])
        inside = mask_logits > logit_threshold
        own[part] = inside
        confidence[part] = (mask_logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    masks, class_indices, scores = own[row], class_indices, class_scores * confidence[row]
    if min_score is None:
        return masks, class_indices, scores
    kept = scores > min_score
    return masks[kept], class_indices[kept], scores[kept]


def rank_instances(
    class_logits: Tensor, is_thing: Sequence[bool], max_instances: int, min_score: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best queries x classes, things only.

    Returns: (M,) queries, each once; then per instance, (N,) each: place among those queries, class, probability.
    """
    classes = class_logits.shape[1] - 1
    probabilities = class_logits.softmax(-1)[:, :-1].flatten()
    class_scores, ranked = probabilities.topk(min(max_instances, len(probabilities)))
    kept = torch.tensor(list(is_thing), dtype=torch.bool, device=class_logits.device)[ranked % classes]
    if min_score is not None:
        kept &= class_scores > min_score
    class_scores, ranked = class_scores[kept], ranked[kept]
    # A query that is ranked with several classes is resized once.
    queries, row = (ranked // classes).unique(return_inverse=True)
    return queries, row, ranked % classes, class_scores
