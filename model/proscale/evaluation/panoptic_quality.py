"""Panoptic quality (Kirillov et al. 2019, arXiv 1801.00868, section 4), as COCO's panopticapi counts it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOID = 0
MATCH_IOU = 0.5


@dataclass
class ClassCount:
    """Matches of one class over all pictures."""

    iou: float = 0.0
    """Sum over true positives."""
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    @property
    def present(self) -> bool:
        """Whether the class occurs at all, in truth or prediction."""
        return self.true_positives + self.false_positives + self.false_negatives > 0

    @property
    def quality(self) -> float:
        """PQ in 0..1; 0 for a class that never occurs."""
        weight = self.true_positives + 0.5 * (self.false_positives + self.false_negatives)
        return self.iou / weight if weight else 0.0


def count_picture(
    counts: Mapping[int, ClassCount],
    predicted: NDArray[np.int32],
    predicted_classes: Sequence[int],
    true: NDArray[np.int32],
    true_classes: Sequence[int],
    crowd: Sequence[bool],
) -> None:
    """Add one picture to the counts.

    Args:
        counts: by class index, changed in place.
        predicted, true: (H, W), 0 = void, i = segment i, whose class is at i - 1.
        crowd: per true segment; crowds are never missed, and predictions mostly inside crowd of their class or void are not wrong.
    """
    pairs, areas = np.unique(true.astype(np.int64) * (len(predicted_classes) + 1) + predicted, return_counts=True)
    overlap = np.zeros((len(true_classes) + 1, len(predicted_classes) + 1), np.int64)
    overlap[np.divmod(pairs, len(predicted_classes) + 1)] = areas
    true_area, predicted_area = overlap.sum(1), overlap.sum(0)
    matched_true, matched_predicted = set(), set()
    for t, p in np.argwhere(overlap > 0):
        if t == VOID or p == VOID or crowd[t - 1] or true_classes[t - 1] != predicted_classes[p - 1]:
            continue
        iou = overlap[t, p] / (true_area[t] + predicted_area[p] - overlap[t, p] - overlap[VOID, p])
        if iou > MATCH_IOU:
            counts[true_classes[t - 1]].true_positives += 1
            counts[true_classes[t - 1]].iou += float(iou)
            matched_true.add(int(t))
            matched_predicted.add(int(p))
    for t, label in enumerate(true_classes, start=1):
        if t not in matched_true and not crowd[t - 1]:
            counts[label].false_negatives += 1
    for p, label in enumerate(predicted_classes, start=1):
        if p in matched_predicted or not predicted_area[p]:
            continue
        crowds = [t for t, true_label in enumerate(true_classes, start=1) if crowd[t - 1] and true_label == label]
        if (overlap[VOID, p] + overlap[crowds, p].sum()) / predicted_area[p] <= MATCH_IOU:
            counts[label].false_positives += 1


def mean_quality(counts: Mapping[int, ClassCount], classes: Sequence[int]) -> float:
    """Mean PQ over those of `classes` that occur; not-a-number when none does."""
    qualities = [counts[c].quality for c in classes if counts[c].present]
    return float(np.mean(qualities)) if qualities else float("nan")
