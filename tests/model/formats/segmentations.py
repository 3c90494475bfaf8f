"""Small segmentations for the tests of formats."""

from collections.abc import Sequence

import numpy as np

from proscale.config import Task
from proscale.results import Segment, Segmentation
from proscale.rle import encode, measure


def segment(
    number: int, mask: np.ndarray, *, label: str = "cell", category_id: int = 1, isthing: bool = True, score: float = 0.5
) -> Segment:
    rle = encode(mask)
    area, box = measure(rle)
    return Segment(number, category_id, label, isthing, score, box, area, rle)


def instances(*masks: np.ndarray, scores: Sequence[float] | None = None) -> Segmentation:
    scores = scores or [0.5] * len(masks)
    found = tuple(segment(i, mask, score=score) for i, (mask, score) in enumerate(zip(masks, scores, strict=True), 1))
    return Segmentation("instance", masks[0].shape, found)


def partition(ids: np.ndarray, labels: Sequence[str] = ("sky", "cell"), task: Task = "panoptic") -> Segmentation:
    """One segment per id above 0; label and category alternate, stuff has an even id."""
    found = tuple(
        segment(int(i), ids == i, label=labels[i % 2], category_id=int(i), isthing=bool(i % 2), score=0.9 - 0.01 * i)
        for i in np.unique(ids)
        if i
    )
    return Segmentation(task, ids.shape, found)
