"""Mean IoU of semantic maps from a confusion matrix over all pictures, as detectron2's SemSegEvaluator, which gave Mask2Former's figures.

Pixels that the truth leaves out count nowhere. A pixel without a prediction is a miss of its true class. The mean is over the classes
that occur in the truth; a class that is only predicted lowers the others' IoU, and has none of its own.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from proscale.datasets import VOID
from proscale.errors import DataError


class ConfusionMatrix:
    """Pixels by true and predicted class."""

    def __init__(self, category_ids: Sequence[int]) -> None:
        self.category_ids = tuple(category_ids)
        order = np.argsort(self.category_ids)
        self._ids, self._places = np.array(self.category_ids, np.int64)[order], order
        self.pixels = np.zeros((len(category_ids), len(category_ids) + 1), np.int64)
        """(K, K + 1): rows are true classes, columns predicted ones, the last for pixels without a prediction."""

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Add one picture.

        Args:
            truth, predicted: (H, W) category ids, VOID where there is none.

        Raises:
            DataError: an id that is no category's.
        """
        classes = len(self.category_ids)
        counted = truth != VOID
        rows, columns = self.places(truth[counted]), self.places(predicted[counted])
        self.pixels += np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1)).reshape(classes, classes + 1)

    def places(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Places of category ids in `category_ids`; the number of classes for VOID."""
        found = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        known = self._ids[found] == ids
        if not (known | (ids == VOID)).all():
            raise DataError(f"a map holds the category {int(ids[~known & (ids != VOID)][0])}, which the data set does not have")
        places: NDArray[np.int64] = np.where(known, self._places[found], len(self.category_ids))
        return places

    def ious(self) -> dict[int, float | None]:
        """IoU of every class; None for those that the truth does not have."""
        hits, true, predicted = np.diag(self.pixels), self.pixels.sum(1), self.pixels.sum(0)[:-1]
        union = true + predicted - hits
        return {c: float(hits[i] / union[i]) if true[i] else None for i, c in enumerate(self.category_ids)}

    def mean_iou(self) -> float | None:
        """Mean over the classes that the truth has; None without any."""
        values = [value for value in self.ious().values() if value is not None]
        return float(np.mean(values)) if values else None

    def accuracy(self) -> float | None:
        """Share of the counted pixels with the right class; None without any."""
        total = int(self.pixels.sum())
        return float(np.diag(self.pixels).sum() / total) if total else None
