"""Panoptic quality on cases small enough to count by hand, and against the published definition written out plainly."""

from collections import defaultdict

import numpy as np
import pytest

from proscale.datasets import PanopticMap, PanopticSegment
from proscale.evaluation.panoptic_quality import ClassCount, count_picture, mean_quality

Map = tuple[list, list[tuple[int, int, bool]]]
"""Ids, and (id, category, crowd) of every segment."""


def panoptic(ids: list, segments: list[tuple[int, int, bool]], areas: dict[int, int] | None = None) -> PanopticMap:
    areas = areas or {}
    return PanopticMap(np.array(ids, np.int32), tuple(PanopticSegment(i, c, crowd, areas.get(i)) for i, c, crowd in segments))


def count(predicted: list, classes: list[int], true: list, true_classes: list[int], crowd: list[bool] | None = None) -> dict:
    crowd = crowd or [False] * len(true_classes)
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    truth = panoptic(true, [(i, c, k) for i, (c, k) in enumerate(zip(true_classes, crowd, strict=True), start=1)])
    count_picture(counts, truth, panoptic(predicted, [(i, c, False) for i, c in enumerate(classes, start=1)]))
    return {c: (round(v.iou, 4), v.true_positives, v.false_positives, v.false_negatives) for c, v in counts.items()}


def test_matches_misses_and_false_positives_are_counted() -> None:
    assert count([[1, 1, 1, 0, 0, 2]], [7, 7], [[1, 1, 1, 1, 2, 2]], [7, 7]) == {7: (0.75, 1, 1, 1)}


def test_an_iou_of_one_half_is_no_match() -> None:
    assert count([[1, 1, 0, 0]], [7], [[1, 1, 1, 1]], [7]) == {7: (0, 0, 1, 1)}


def test_the_class_must_agree() -> None:
    assert count([[1, 1]], [3], [[1, 1]], [7]) == {7: (0, 0, 0, 1), 3: (0, 0, 1, 0)}


def test_void_pixels_do_not_count_against_a_segment() -> None:
    assert count([[1, 1, 1, 1]], [7], [[1, 1, 0, 0]], [7]) == {7: (1.0, 1, 0, 0)}
    assert count([[1, 1, 1, 1]], [7], [[0, 0, 0, 1]], [7]) == {7: (1.0, 1, 0, 0)}
    assert count([[0, 1, 1, 1]], [7], [[1, 0, 0, 1]], [7]) == {7: (0, 0, 0, 1)}


def test_crowds_are_neither_missed_nor_matched() -> None:
    assert count([[1, 1, 1, 1]], [7], [[1, 1, 1, 1]], [7], [True]) == {}
    assert count([[1, 1, 1, 1]], [3], [[1, 1, 1, 1]], [7], [True]) == {3: (0, 0, 1, 0)}


def test_of_several_crowds_of_a_class_the_last_counts() -> None:
    true = [[1, 1, 1, 2, 2, 2]]
    assert count([[1, 1, 1, 0, 0, 0]], [7], true, [7, 7], [True, True]) == {7: (0, 0, 1, 0)}
    assert count([[0, 0, 0, 1, 1, 1]], [7], true, [7, 7], [True, True]) == {}


def test_an_id_zero_that_is_listed_is_a_segment_and_void() -> None:
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    truth = panoptic([[0, 0, 0, 0, 9, 9]], [(0, 7, False), (9, 3, False)])
    count_picture(counts, truth, panoptic([[4, 4, 4, 5, 5, 5]], [(4, 7, False), (5, 3, False)]))
    # The overlap of 3 is taken from the union twice: 3 / (3 + 4 - 3 - 3).
    assert counts[7] == ClassCount(3.0, 1, 0, 0)
    assert counts[3] == ClassCount(1.0, 1, 0, 0)


def test_segments_without_pixels_and_pixels_without_segment() -> None:
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    truth = panoptic([[5, 5, 8, 8]], [(5, 7, False), (6, 7, False)])  # 6 has no pixel, 8 is not listed
    count_picture(counts, truth, panoptic([[1, 1, 1, 0]], [(1, 7, False), (2, 7, False)]))
    assert counts[7] == ClassCount(2 / 3, 1, 0, 1)


def test_the_stated_area_counts() -> None:
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    count_picture(counts, panoptic([[5, 5, 0, 0]], [(5, 7, False)], {5: 3}), panoptic([[1, 1, 0, 0]], [(1, 7, False)]))
    assert counts[7].iou == pytest.approx(2 / 3)


def test_quality_is_iou_over_matches_and_half_of_the_errors() -> None:
    counts = {1: ClassCount(1.5, 2, 1, 3), 2: ClassCount(0, 0, 2, 0), 3: ClassCount()}
    assert counts[1].quality == pytest.approx(1.5 / (2 + 2))
    means = mean_quality(counts, [1, 2, 3])
    assert means == {"pq": pytest.approx(0.375 / 2), "sq": pytest.approx(0.75 / 2), "rq": pytest.approx(0.25)}
    assert mean_quality(counts, [3]) == {"pq": None, "sq": None, "rq": None}


def plainly(truth: PanopticMap, predicted: PanopticMap) -> dict[int, ClassCount]:
    """The definition, mask by mask."""
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    void = truth.ids == 0
    matched_true, matched = set(), set()
    predicted_segments = {s.id: s for s in predicted.segments if (predicted.ids == s.id).any()}
    for t in truth.segments:
        for p in predicted_segments.values():
            a, b = truth.ids == t.id, predicted.ids == p.id
            if not (a & b).any() or t.iscrowd or t.category_id != p.category_id:
                continue
            area = int(a.sum()) if t.area is None else t.area
            iou = (a & b).sum() / (area + b.sum() - (a & b).sum() - (b & void).sum())
            if iou > 0.5:
                counts[t.category_id].iou += float(iou)
                counts[t.category_id].true_positives += 1
                matched_true.add(t.id)
                matched.add(p.id)
    last_crowd = {t.category_id: t.id for t in truth.segments if t.iscrowd}
    for t in truth.segments:
        counts[t.category_id].false_negatives += not t.iscrowd and t.id not in matched_true
    for p in predicted_segments.values():
        if p.id not in matched:
            b = predicted.ids == p.id
            ignored = (b & void).sum()
            if p.category_id in last_crowd:
                ignored += (b & (truth.ids == last_crowd[p.category_id])).sum()
            counts[p.category_id].false_positives += bool(ignored / b.sum() <= 0.5)
    return counts


@pytest.mark.parametrize("seed", range(60))
def test_it_equals_the_definition_on_adversarial_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 2))
    # Large ids, ids 0 that are listed, crowds of one class, segments without pixels, pixels that nobody lists, blocks that tie at 0.5.
    values = rng.choice([0, 1, 2, 300, 70000, 16777215], 4, replace=False)

    def draw() -> np.ndarray:
        blocks = rng.choice(values, (3, 3))
        return np.kron(blocks, np.ones((4, 4), int))[: shape[0], : shape[1]].astype(np.int32)

    listed = [int(v) for v in values if v or rng.random() < 0.3]
    listed = [v for v in listed if rng.random() < 0.9]
    truth = PanopticMap(draw(), tuple(PanopticSegment(v, int(rng.integers(1, 3)), bool(rng.random() < 0.4)) for v in listed))
    predicted = PanopticMap(draw(), tuple(PanopticSegment(int(v), int(rng.integers(1, 3))) for v in values if v))
    if rng.random() < 0.5:
        predicted = PanopticMap(np.where(rng.random(shape) < 0.3, predicted.ids, truth.ids), predicted.segments)
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    count_picture(counts, truth, predicted)
    expected = plainly(truth, predicted)
    for category in (1, 2):
        ours, theirs = counts[category], expected[category]
        assert ours.iou == pytest.approx(theirs.iou, abs=1e-12)
        assert (ours.true_positives, ours.false_positives, ours.false_negatives) == (
            theirs.true_positives,
            theirs.false_positives,
            theirs.false_negatives,
        )
