"""Panoptic inference (arXiv 2107.06278, section 3.4, with the additional probability test of the published code)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PanopticSegment:
    """One segment of a panoptic map."""

    id: int
    class_index: int
    score: float
    """Probability of the class; of a stuff class that several queries share, the highest."""


def panoptic_inference(
    class_logits: Tensor,
    masks_of: Callable[[Tensor], Tensor],
    is_thing: Sequence[bool],
    threshold: float,
    overlap_threshold: float,
    mask_threshold: float = 0.5,
) -> tuple[Tensor, list[PanopticSegment]]:
    """Give every pixel to at most one segment.

    Queries are kept when their best class, void among the candidates, is not void and its probability is above `threshold`.
    Each pixel goes to the kept query with the highest probability x sigmoid(mask), if its own mask probability there
    is at least `mask_threshold`. A query left with less than `overlap_threshold` of its own mask is dropped. Stuff of
    one class is one segment.

    Args:
        class_logits: (Q, K + 1) float.
        masks_of: indices (N,) of kept queries -> their mask logits (N, H, W) at the output size. A function, so that only kept
            queries need be resized.
        is_thing: per class.

    Returns:
        ids (H, W) int32, 0 = void, segments counted from 1 in query order; and the segments.
    """
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = ((labels != class_logits.shape[1] - 1) & (scores > threshold)).nonzero().flatten()
    probabilities = masks_of(kept).sigmoid()
    ids = torch.zeros(probabilities.shape[1:], dtype=torch.int32, device=class_logits.device)
    segments: list[PanopticSegment] = []
    if len(kept) == 0:
        return ids, segments
    winner = (probabilities * scores[kept, None, None]).argmax(0)
    own = probabilities >= mask_threshold
    won = own.gather(0, winner[None])[0]
    # As published, the overlap is judged on every pixel won, though a segment keeps only those inside its own mask.
    won_areas = winner.flatten().bincount(minlength=len(kept)).tolist()
    own_areas = own.flatten(1).sum(1).tolist()
    final_areas = winner[won].bincount(minlength=len(kept)).tolist()
    # Which queries stay is decided on a few numbers; the map is then painted at once by a table from query to id.
    table, stuff = [0] * len(kept), dict[int, int]()
    for i, (label, score) in enumerate(zip(labels[kept].tolist(), scores[kept].tolist(), strict=True)):
        if final_areas[i] == 0 or won_areas[i] / own_areas[i] < overlap_threshold:
            continue
        if not is_thing[label] and label in stuff:
            table[i] = stuff[label]
            first = segments[stuff[label] - 1]
            segments[stuff[label] - 1] = PanopticSegment(first.id, label, max(first.score, score))
            continue
        table[i] = len(segments) + 1
        if not is_thing[label]:
            stuff[label] = table[i]
        segments.append(PanopticSegment(table[i], label, score))
    painted = torch.tensor(table, dtype=torch.int32, device=ids.device)[winner]
    return torch.where(won, painted, ids), segments

