"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562) of semantic maps: IoU of the rims of masks, so that large masks must be precise too.

The rim of a mask are its pixels at most d from its contour, the picture's edge being contour; d is 2% of the picture's diagonal.
Counts are summed over all pictures class by class. What the truth leaves out is left out of both.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter, minimum_filter1d

from proscale.datasets import VOID

DILATION_RATIO = 0.02
_OUTSIDE = -2


def rim_width(height: int, width: int) -> int:
    """d in pixels, at least 1."""
    return max(1, round(DILATION_RATIO * float(np.hypot(height, width))))


def rims(classes: NDArray[np.integer], distance: int) -> NDArray[np.bool_]:
    """Which pixels lie in the rim of their own class's mask, for all classes at once.

    Such a pixel has another class, or the picture's outside, within `distance` rows and columns (a square, as repeated 3x3 erosion).

    Args:
        classes: (H, W).
    """
    size = 2 * distance + 1
    low, high = classes, classes
    for axis in (0, 1):
        low = minimum_filter1d(low, size, axis, mode="constant", cval=_OUTSIDE)
        high = maximum_filter1d(high, size, axis, mode="constant", cval=_OUTSIDE)
    differs: NDArray[np.bool_] = low != high
    return differs


def rims_by_class(classes: NDArray[np.integer], distance: int) -> NDArray[np.bool_]:
    """`rims`, one class after the other by erosion: the definition written out."""
    inside = np.zeros(classes.shape, bool)
    for value in np.unique(classes).tolist():
        mask = (classes == value).astype(np.uint8)
        eroded = minimum_filter(mask, 2 * distance + 1, mode="constant", cval=0)
        inside |= (mask == 1) & (eroded == 0)
    return inside


class BoundaryCount:
    """Rims in common and rims together, by class."""

    def __init__(self, category_ids: Sequence[int]) -> None:
        self.counts = {category: [0, 0] for category in category_ids}
        self.true: set[int] = set()

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Add one picture. Args: (H, W) category ids, VOID where there is none."""
        counted = truth != VOID
        shown = np.where(counted, predicted, VOID)
        distance = rim_width(*truth.shape)
        true_rim, shown_rim = rims(truth, distance) & counted, rims(shown, distance) & counted
        found, areas = np.unique(truth[true_rim], return_counts=True)
        own = dict(zip(found.tolist(), areas.tolist(), strict=True))
        found, areas = np.unique(shown[shown_rim], return_counts=True)
        others = dict(zip(found.tolist(), areas.tolist(), strict=True))
        found, areas = np.unique(truth[true_rim & shown_rim & (truth == shown)], return_counts=True)
        common = dict(zip(found.tolist(), areas.tolist(), strict=True))
        self.true.update(np.unique(truth[counted]).tolist())
        for category in {*own, *others} - {VOID}:
            both = common.get(category, 0)
            self.counts[category][0] += both
            self.counts[category][1] += own.get(category, 0) + others.get(category, 0) - both

    def ious(self) -> dict[int, float | None]:
        """Boundary IoU of every class; None for those that the truth does not have."""
        return {c: both / together if c in self.true and together else None for c, (both, together) in self.counts.items()}

    def mean(self) -> float | None:
        """Mean over the classes that the truth has; None without any."""
        values = [value for value in self.ious().values() if value is not None]
        return float(np.mean(values)) if values else None
