"""Panoptic quality on cases small enough to count by hand."""

from collections import defaultdict

import numpy as np
import pytest

from proscale.evaluation.panoptic_quality import ClassCount, count_picture, mean_quality


def count(predicted: list, predicted_classes: list[int], true: list, true_classes: list[int], crowd: list[bool] | None = None) -> dict:
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    crowd = crowd or [False] * len(true_classes)
    count_picture(counts, np.array(predicted, np.int32), predicted_classes, np.array(true, np.int32), true_classes, crowd)
    return {c: (round(v.iou, 4), v.true_positives, v.false_positives, v.false_negatives) for c, v in counts.items()}


def test_a_match_a_miss_and_an_invention() -> None:
    true = [[1, 1, 1, 1, 2, 2]]
    predicted = [[1, 1, 1, 0, 0, 2]]
    assert count(predicted, [7, 7], true, [7, 7]) == {7: (0.75, 1, 1, 1)}


def test_half_overlap_is_no_match() -> None:
    assert count([[1, 1, 0, 0]], [7], [[1, 1, 1, 1]], [7]) == {7: (0, 0, 1, 1)}


def test_the_class_must_agree() -> None:
    assert count([[1, 1]], [3], [[1, 1]], [7]) == {7: (0, 0, 0, 1), 3: (0, 0, 1, 0)}


def test_void_is_not_held_against_a_segment() -> None:
    assert count([[1, 1, 1, 1]], [7], [[1, 1, 0, 0]], [7]) == {7: (1.0, 1, 0, 0)}
    assert count([[1, 1, 1, 1]], [7], [[0, 0, 0, 1]], [7]) == {7: (1.0, 1, 0, 0)}
    assert count([[0, 1, 1, 1]], [7], [[1, 0, 0, 1]], [7]) == {7: (0, 0, 0, 1)}


def test_crowds_are_neither_missed_nor_matched() -> None:
    assert count([[1, 1, 1, 1]], [7], [[1, 1, 1, 1]], [7], [True]) == {}
    assert count([[1, 1, 1, 1]], [3], [[1, 1, 1, 1]], [7], [True]) == {3: (0, 0, 1, 0)}


def test_quality_is_iou_over_matches_and_half_of_the_errors() -> None:
    counts = {1: ClassCount(1.5, 2, 1, 3), 2: ClassCount(0, 0, 2, 0), 3: ClassCount()}
    assert counts[1].quality == pytest.approx(1.5 / (2 + 2))
    assert mean_quality(counts, [1, 2, 3]) == pytest.approx((0.375 + 0) / 2)
    assert np.isnan(mean_quality(counts, [3]))
