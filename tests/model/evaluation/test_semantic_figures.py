"""mIoU against a confusion matrix counted pixel by pixel, boundary IoU against its definition."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from proscale.datasets import VOID
from proscale.errors import DataError
from proscale.evaluation.boundary_iou import BoundaryCount, rim_width, rims, rims_by_class
from proscale.evaluation.confusion import ConfusionMatrix


@pytest.mark.parametrize("seed", range(8))
def test_mean_iou(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [200, 3, 17, 0]  # gaps, and not in order
    matrix = ConfusionMatrix(ids)
    truths, shown = [], []
    for _ in range(3):
        shape = tuple(rng.integers(1, 12, 2))
        truths.append(rng.choice([VOID, 200, 3, 0], shape))
        shown.append(rng.choice([VOID, *ids], shape))
        matrix.add(truths[-1], shown[-1])
    truth, predicted = np.concatenate([t.ravel() for t in truths]), np.concatenate([s.ravel() for s in shown])
    truth, predicted = truth[truth != VOID], predicted[truth != VOID]
    expected = {}
    for category in ids:
        union = ((truth == category) | (predicted == category)).sum()
        expected[category] = ((truth == category) & (predicted == category)).sum() / union if (truth == category).any() else None
    assert matrix.ious() == expected
    assert expected[17] is None
    assert matrix.mean_iou() == pytest.approx(np.mean([value for value in expected.values() if value is not None]))
    assert matrix.accuracy() == pytest.approx((truth == predicted).mean())
    assert matrix.pixels.sum() == truth.size


def test_metrics_without_pixels_are_undefined() -> None:
    matrix = ConfusionMatrix([1])
    matrix.add(np.full((2, 2), VOID), np.ones((2, 2), int))
    assert (matrix.mean_iou(), matrix.accuracy()) == (None, None)
    with pytest.raises(DataError, match="holds the category 5"):
        matrix.add(np.array([[1]]), np.array([[5]]))


@pytest.mark.parametrize("seed", range(10))
def test_boundaries_of_all_classes_are_found_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = np.kron(rng.integers(-1, 4, (4, 5)), np.ones((6, 7), int))[: rng.integers(1, 24), : rng.integers(1, 35)]
    distance = int(rng.integers(1, 4))
    assert np.array_equal(rims(classes, distance), rims_by_class(classes, distance))


def test_boundary_iou_of_one_mask() -> None:
    truth, predicted = np.full((100, 120), 1), np.full((100, 120), 1)
    truth[20:60, 30:80] = 2
    predicted[22:61, 30:83] = 2
    width = rim_width(100, 120)
    assert width == 3

    def rim(mask: np.ndarray) -> np.ndarray:
        return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)

    counts = BoundaryCount([1, 2, 3])
    counts.add(truth, predicted)
    for category in (1, 2):
        a, b = rim(truth == category), rim(predicted == category)
        assert counts.ious()[category] == (a & b).sum() / (a | b).sum()
    assert counts.ious()[3] is None
    assert counts.mean() == pytest.approx(np.mean([counts.ious()[1], counts.ious()[2]]))


def test_void_has_no_boundary() -> None:
    truth = np.full((60, 60), 1)
    truth[:, 30:] = VOID
    counts = BoundaryCount([1, 2])
    counts.add(truth, np.where(truth == VOID, 2, 1))
    assert counts.ious() == {1: 1.0, 2: None}
