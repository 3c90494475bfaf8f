"""Windows become one picture: as the definition on dense masks has it, and without a fault of its own."""

import numpy as np
import pytest

from proscale.config import Task
from proscale.formats.runs import to_rle
from proscale.results import Plan, Segment
from proscale.rle import decode, encode, measure
from proscale.tiles import Merger, merged_prediction
from proscale.tiles.dense import merge_dense

from .oracle import (
    STUFF,
    THING,
    Ids,
    blobs,
    category_of,
    laid_out,
    merge,
    remove_what_windows_see_in_pieces,
    segment_of,
    segments_of,
    windows_of,
)


def noisy(segments: list[Segment], rng: np.random.Generator, task: Task) -> list[Segment]:
    """A network that is often wrong: it misses, moves, splits and doubles; in panoptic results masks stay apart."""
    found: list[Segment] = []
    taken = np.zeros(segments[0].segmentation.size, bool)
    for segment in segments:
        mask = decode(segment.segmentation)
        kind = rng.choice(["right", "missed", "moved", "half", "twice"], p=[0.5, 0.15, 0.15, 0.1, 0.1])
        if kind == "missed":
            continue
        if kind == "moved":
            mask = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
        halves = [mask]
        if kind == "half":
            half = np.arange(mask.shape[1])[None] < segment.bbox[0] + segment.bbox[2] // 2
            halves = [mask & half, mask & ~half]
        for each in halves * (2 if kind == "twice" and task == "instance" else 1):
            free = each if task == "instance" else each & ~taken
            taken |= free
            rle = encode(free)
            area, bbox = measure(rle)
            score = round(float(rng.uniform(0.3, 1)), 3)
            found.append(Segment(len(found) + 1, segment.category_id, segment.label, segment.isthing, score, bbox, area, rle))
    return found


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize(("side", "overlap"), [(40, 16), (33, 0), (50, 25), (61, 7), (150, 9)])
def test_merging_runs_equals_the_definition_on_dense_masks(task: Task, side: int, overlap: int) -> None:
    rng = np.random.default_rng([side, overlap])
    ids = blobs(side, 97, 131, 40)
    layout = laid_out(ids, side, overlap)
    results = [noisy(segments_of(part), rng, task) for part in windows_of(ids, layout)]
    if task == "instance":
        results = [[segment for segment in segments if segment.isthing] for segments in results]
    slow, fast = merge_dense(task, layout, results), merge(task, layout, results)
    assert [segment.category_id for segment in fast] == [segment.category_id for segment in slow]
    for one, other in zip(fast, slow, strict=True):
        assert to_rle(one.runs) == encode(other.mask)
        assert one.score == pytest.approx(other.score)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("side", "overlap"), [(64, 16), (48, 2), (90, 45)])
def test_perfect_predictions_are_merged_without_error(seed: int, side: int, overlap: int) -> None:
    ids = blobs(seed, 150, 210, 60, (3, 40))  # things larger than a window among them
    layout = laid_out(ids, side, overlap)
    remove_what_windows_see_in_pieces(ids, layout)
    merged = merge("panoptic", layout, [segments_of(part, connected=True) for part in windows_of(ids, layout)])
    expected = {encode(ids == number).counts: category_of(number) for number in np.unique(ids[ids > 0]).tolist()}
    assert {to_rle(segment.runs).counts: segment.category_id for segment in merged} == expected


def test_a_picture_that_moves_by_half_a_window_is_segmented_alike() -> None:
    ids = blobs(3, 200, 260, 70)
    moved = np.zeros((ids.shape[0] + 32, ids.shape[1] + 32), np.int32)
    for _ in range(2):
        remove_what_windows_see_in_pieces(ids, laid_out(ids, 64, 16))
        moved[32:, 32:] = ids
        remove_what_windows_see_in_pieces(moved, laid_out(moved, 64, 16))
        ids = moved[32:, 32:].copy()

    def found(canvas: Ids, down: int, right: int) -> set[str]:
        layout = laid_out(canvas, 64, 16)
        merged = merge("panoptic", layout, [segments_of(part, connected=True) for part in windows_of(canvas, layout)])
        masks = [decode(to_rle(segment.runs))[down:, right:][: ids.shape[0], : ids.shape[1]] for segment in merged]
        return {encode(mask).counts for mask in masks if mask.any()}

    assert len(np.unique(ids)) > 40
    assert found(moved, 32, 32) == found(ids, 0, 0)


def test_things_that_two_windows_see_apart_stay_apart() -> None:
    ids = np.zeros((40, 100), np.int32)
    ids[10:30, 20:48] = THING * 10_000 + 1  # ends inside the strip
    ids[10:30, 52:80] = THING * 10_000 + 2
    layout = laid_out(ids, 60, 20)
    assert [layout.window(index).left for index in range(len(layout))] == [0, 40]
    merged = merge("panoptic", layout, [segments_of(part) for part in windows_of(ids, layout)])
    assert sorted(segment.runs.area for segment in merged) == [20 * 28, 20 * 28]


def seen(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """A mask of a window of 40 x 60 pixels."""
    mask = np.zeros((40, 60), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_what_no_window_confirms_is_dropped_where_another_sees_deeper() -> None:
    layout = laid_out(np.zeros((40, 100), np.int32), 60, 20)  # windows at columns 0 and 40
    cut, near, deep = seen(10, 0, 20, 15), seen(25, 3, 35, 15), seen(0, 8, 8, 20)
    merged = merge("panoptic", layout, [[], [segment_of(mask) for mask in (cut, near, deep)]])
    assert [segment.runs.area for segment in merged] == [8 * 12]  # all of it, beyond the middle of the strip too


def test_a_thing_that_both_windows_see_is_as_the_one_says_in_which_it_lies_deeper() -> None:
    layout = laid_out(np.zeros((40, 100), np.int32), 60, 20)
    first, second = seen(10, 41, 20, 55), seen(8, 2, 21, 16)  # columns 41 to 54, and 42 to 55
    for task in ("panoptic", "instance"):
        (thing,) = merge(task, layout, [[segment_of(first, score=0.6)], [segment_of(second, score=0.8)]])
        assert thing.runs.area == 10 * 14
        assert thing.score == pytest.approx(0.6)


def test_things_keep_off_what_the_window_knows_that_decides_a_pixel() -> None:
    layout = laid_out(np.zeros((40, 100), np.int32), 60, 20)
    left, right = seen(10, 30, 20, 54), seen(10, 12, 20, 30)  # columns 30 to 53, and 52 to 69: the seam is at 50
    merged = merge("panoptic", layout, [[segment_of(left)], [segment_of(right)]])
    assert [segment.runs.area for segment in merged] == [10 * 22, 10 * 18]
    assert [segment.runs.area for segment in merge("instance", layout, [[segment_of(left)], [segment_of(right)]])] == [10 * 24, 10 * 18]


def test_what_a_dropped_thing_leaves_is_the_stuff_that_others_saw() -> None:
    layout = laid_out(np.zeros((40, 100), np.int32), 60, 20)
    first, second = seen(10, 41, 20, 55), seen(8, 2, 21, 16)
    thing, stuff = merge(
        "panoptic",
        layout,
        [[segment_of(first), segment_of(~first, STUFF)], [segment_of(second), segment_of(~second, STUFF)]],
    )
    assert thing.runs.area == 10 * 14
    assert stuff.runs.area == 40 * 100 - 10 * 14


def test_scores_are_means_by_area_and_classes_of_stuff_are_united() -> None:
    layout = laid_out(np.zeros((10, 100), np.int32), 60, 20)
    full = np.ones((10, 60), bool)
    part = full.copy()
    part[:, 30:] = False
    merged = merge("panoptic", layout, [[segment_of(full, STUFF, 0.5)], [segment_of(full & ~part, STUFF, 1.0)]])
    (stuff,) = merged
    assert stuff.runs.area == 10 * 50 + 10 * 30
    assert stuff.score == pytest.approx((50 * 0.5 + 30 * 1.0) / 80)


def test_the_prediction_has_ids_boxes_and_only_the_best() -> None:
    ids = blobs(1, 90, 120, 20)
    layout = laid_out(ids, 50, 10)
    mergers = {"panoptic": Merger("panoptic", layout), "semantic": Merger("semantic", layout)}
    rng = np.random.default_rng(0)
    for part in windows_of(ids, layout):
        for merger in mergers.values():
            merger.add([segment_of(decode(each.segmentation), each.category_id, rng.uniform()) for each in segments_of(part)])
    prediction = merged_prediction(mergers, layout.plan, {"infer": 1.0}, max_segments=4)
    assert prediction.plan == layout.plan
    panoptic, semantic = prediction.results["panoptic"], prediction.results["semantic"]
    assert [segment.id for segment in panoptic.segments] == [1, 2, 3, 4]
    assert len({segment.category_id for segment in semantic.segments}) == len(semantic.segments) == 4
    for segment in (*panoptic.segments, *semantic.segments):
        assert (segment.area, segment.bbox) == measure(segment.segmentation)
        assert segment.segmentation.size == panoptic.size == (90, 120)


def test_windows_of_earlier_rows_are_freed() -> None:
    ids = blobs(5, 800, 90, 200)
    layout = laid_out(ids, 50, 10)
    merger, kept = Merger("panoptic", layout), []
    for part in windows_of(ids, layout):
        merger.add(segments_of(part))
        kept.append(merger.windows_kept)
    assert max(kept) <= 5 * layout.across
    assert len(layout) >= 4 * max(kept)


def test_all_windows_must_be_given() -> None:
    merger = Merger("panoptic", laid_out(np.zeros((10, 100), np.int32), 60, 20))
    merger.add([])
    with pytest.raises(RuntimeError, match="1 of 2 windows"):
        list(merger.finish())


def test_a_plan_without_windows_has_no_tiles() -> None:
    assert Plan((1, 1), (32, 32), 1, 1).tiles is None
