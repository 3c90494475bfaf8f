"""Panoptic inference (arXiv 2107.06278, section 3.4, with the additional probability test of the published code)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proscale.postprocess.resize import queries_at_once


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
    size: Sequence[int],
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
        masks_of: indices (N,) of queries -> their mask logits (N, *size). A function, so that only kept queries are resized.
        size: (H, W) of the result in pixels.
        is_thing: per class.

    Returns:
        ids (H, W) int32, 0 = void, segments counted from 1 in query order; and the segments.
    """
    kept, class_indices, scores = keep_queries(class_logits, threshold)
    if not len(kept):
        return torch.zeros(*size, dtype=torch.int32, device=class_logits.device), []
    winner, won, own_areas = _winners(kept, scores, masks_of, size, mask_threshold)
    # As published, the overlap is judged on every pixel won, though a segment keeps only those inside its own mask.
    won_areas = winner.flatten().bincount(minlength=len(kept)).tolist()
    final_areas = winner[won].bincount(minlength=len(kept)).tolist()
    table, segments = choose_segments(
        class_indices.tolist(), scores.tolist(), won_areas, final_areas, own_areas, is_thing, overlap_threshold
    )
    painted = torch.tensor(table, dtype=torch.int32, device=winner.device)[winner]
    return painted * won, segments


def choose_segments(
    class_indices: Sequence[int],
    scores: Sequence[float],
    won_areas: Sequence[int],
    final_areas: Sequence[int],
    own_areas: Sequence[int],
    is_thing: Sequence[bool],
    overlap_threshold: float,
) -> tuple[list[int], list[PanopticSegment]]:
    """Which kept queries become segments, decided on a few numbers; the map can then be painted at once.

    Args: one entry per kept query: best class, its probability, pixels won, those of them inside the query's own mask, its own mask.
    Returns: a table from query to segment id, 0 = none; and the segments.
    """
    segments: list[PanopticSegment] = []
    table, stuff = [0] * len(class_indices), dict[int, int]()
    for i, (class_index, score) in enumerate(zip(class_indices, scores, strict=True)):
        if final_areas[i] == 0 or won_areas[i] / own_areas[i] < overlap_threshold:
            continue
        if class_index in stuff:
            table[i] = stuff[class_index]
            first = segments[stuff[class_index] - 1]
            segments[stuff[class_index] - 1] = PanopticSegment(first.id, class_index, max(first.score, score))
            continue
        table[i] = len(segments) + 1
        if not is_thing[class_index]:
            stuff[class_index] = table[i]
        segments.append(PanopticSegment(table[i], class_index, score))
    return table, segments


def keep_queries(class_logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries whose best class is not void and above `threshold`: indices, class indices and probabilities, (N,) each."""
    scores, class_indices = class_logits.softmax(-1).max(-1)
    kept = ((class_indices != class_logits.shape[1] - 1) & (scores > threshold)).nonzero().flatten()
    return kept, class_indices[kept], scores[kept]


def _winners(
    kept: Tensor, scores: Tensor, masks_of: Callable[[Tensor], Tensor], size: Sequence[int], mask_threshold: float
) -> tuple[Tensor, Tensor, list[int]]:
    """The best query of every pixel, a few queries at a time.

    Args: kept (N,) query indices, scores (N,).
    Returns: winner (H, W) int64 in 0..N-1; whether the pixel is inside the winner's own mask (H, W) bool; area of each own mask.
    """
    device = scores.device
    best = torch.full(tuple(size), -1.0, device=device)
    winner = torch.zeros(*size, dtype=torch.int64, device=device)
    won = torch.zeros(*size, dtype=torch.bool, device=device)
    own_areas: list[int] = []
    first = 0
    for queries, query_scores in zip(*(x.split(queries_at_once(size)) for x in (kept, scores)), strict=True):
        probabilities = masks_of(queries).sigmoid()
        own = probabilities >= mask_threshold
        own_areas += own.flatten(1).sum(1).tolist()
        value, index = (probabilities * query_scores[:, None, None]).max(0)
        better = value > best
        best = torch.where(better, value, best)
        winner = torch.where(better, index + first, winner)
        won = torch.where(better, own.gather(0, index[None])[0], won)
        first += len(queries)
    return winner, won, own_areas
