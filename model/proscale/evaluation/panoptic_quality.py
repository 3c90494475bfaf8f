"""Panoptic quality (Kirillov et al. 2019, arXiv 1801.00868, section 4), to the letter of COCO's published evaluation (panopticapi).

Where the paper leaves a case open, the published evaluation decides, and so it is counted here:
- of several crowd regions of one class in a picture, the last that is listed excuses predictions; the others do nothing;
- an id 0 that is listed is a segment, and its pixels are void as well;
- a true segment without pixels is missed; its area is what the annotation says, the count of its pixels where it says nothing;
- pixels whose id no annotation lists belong to nobody, yet are not void.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np

from proscale.datasets import PanopticMap

VOID_ID = 0
MATCH_IOU = 0.5
_SHIFT = 1 << 31
"""More than any id: truth x _SHIFT + prediction names a pair."""


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

    @property
    def segmentation_quality(self) -> float:
        """SQ: mean IoU of the matches; 0 without any."""
        return self.iou / self.true_positives if self.true_positives else 0.0

    @property
    def recognition_quality(self) -> float:
        """RQ: the F1 score of the matches; 0 for a class that never occurs."""
        weight = self.true_positives + 0.5 * (self.false_positives + self.false_negatives)
        return self.true_positives / weight if weight else 0.0

    def add(self, other: "ClassCount") -> None:
        """Add another picture's counts."""
        self.iou += other.iou
        self.true_positives += other.true_positives
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives


def count_picture(counts: MutableMapping[int, ClassCount], truth: PanopticMap, predicted: PanopticMap) -> None:
    """Add one picture to the counts.

    Args:
        counts: by category id, changed in place; it makes what it lacks (a defaultdict).
        truth, predicted: maps of one size (H, W); categories of one data set. A predicted segment without pixels is not counted.
    """
    pairs, areas = np.unique(truth.ids.astype(np.int64) * _SHIFT + predicted.ids, return_counts=True)
    overlap = {divmod(pair, _SHIFT): area for pair, area in zip(pairs.tolist(), areas.tolist(), strict=True)}
    true_area, predicted_area = dict[int, int](), dict[int, int]()
    for (t, p), area in overlap.items():
        true_area[t], predicted_area[p] = true_area.get(t, 0) + area, predicted_area.get(p, 0) + area
    true = {segment.id: segment for segment in truth.segments}
    found = {segment.id: segment for segment in predicted.segments if segment.id in predicted_area}
    matched_true, matched_found = set(), set()
    for (t, p), area in overlap.items():
        if t not in true or p not in found or true[t].iscrowd or true[t].category_id != found[p].category_id:
            continue
        stated = true[t].area
        own = true_area.get(t, 0) if stated is None else stated
        iou = area / (own + predicted_area[p] - area - overlap.get((VOID_ID, p), 0))
        if iou > MATCH_IOU:
            counts[true[t].category_id].true_positives += 1
            counts[true[t].category_id].iou += iou
            matched_true.add(t)
            matched_found.add(p)
    crowds: dict[int, int] = {}
    for t, segment in true.items():
        if segment.iscrowd:
            crowds[segment.category_id] = t
        elif t not in matched_true:
            counts[segment.category_id].false_negatives += 1
    for p, segment in found.items():
        if p in matched_found:
            continue
        excused = overlap.get((VOID_ID, p), 0)
        if segment.category_id in crowds:
            excused += overlap.get((crowds[segment.category_id], p), 0)
        if excused / predicted_area[p] <= MATCH_IOU:
            counts[segment.category_id].false_positives += 1


def mean_quality(counts: Mapping[int, ClassCount], categories: Iterable[int]) -> dict[str, float | None]:
    """Mean `pq`, `sq` and `rq` over those of `categories` that occur; None when none does."""
    present = [counts[category] for category in categories if category in counts and counts[category].present]
    if not present:
        return {"pq": None, "sq": None, "rq": None}
    return {
        "pq": float(np.mean([count.quality for count in present])),
        "sq": float(np.mean([count.segmentation_quality for count in present])),
        "rq": float(np.mean([count.recognition_quality for count in present])),
    }
