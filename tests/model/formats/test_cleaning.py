"""Cleaning against SciPy on dense masks."""

import numpy as np
import pytest
from scipy import ndimage
from tests.model.formats.segmentations import instances, partition

from proscale.formats.cleaning import CleaningOptions, clean, without_duplicates
from proscale.rle import decode


def masks(count: int = 200) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.random(rng.integers(1, 14, 2)) < rng.random() for _ in range(count)]


def test_nothing_is_done_by_default() -> None:
    segmentation = partition(np.random.default_rng(0).integers(0, 5, (8, 9)))
    cleaned = clean(segmentation, CleaningOptions())
    assert cleaned.segmentation == segmentation
    assert (cleaned.dropped_small, cleaned.dropped_duplicates, cleaned.filled_pixels, cleaned.removed_pixels) == (0, 0, 0, 0)


def test_holes_of_instances_are_filled_as_scipy_fills_them() -> None:
    for mask in masks():
        cleaned = clean(instances(mask), CleaningOptions(fill_holes=mask.size))
        filled = ndimage.binary_fill_holes(mask)
        (segment,) = cleaned.segmentation.segments
        assert (decode(segment.segmentation) == filled).all()
        assert segment.area == filled.sum()
        assert cleaned.filled_pixels == filled.sum() - mask.sum()


def test_larger_holes_stay() -> None:
    mask = np.ones((9, 12), bool)
    mask[1:3, 1:3] = mask[4:8, 5:9] = False
    (segment,) = clean(instances(mask), CleaningOptions(fill_holes=4)).segmentation.segments
    assert segment.area == mask.sum() + 4


def test_filled_holes_of_panoptic_segments_never_cover_others() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        ids = rng.integers(0, 4, rng.integers(3, 12, 2))
        cleaned = clean(partition(ids), CleaningOptions(fill_holes=6))
        cover = sum((decode(each.segmentation).astype(int) for each in cleaned.segmentation.segments), np.zeros(ids.shape, int))
        assert cover.max(initial=0) <= 1
        assert cover.sum() == (ids > 0).sum() + cleaned.filled_pixels
        assert (cover[ids > 0] == 1).all()


def test_the_largest_piece_of_things_is_kept() -> None:
    for mask in masks():
        if not mask.any():
            continue
        labels, _ = ndimage.label(mask)
        cleaned = clean(instances(mask), CleaningOptions(largest_piece=True))
        (segment,) = cleaned.segmentation.segments
        kept = decode(segment.segmentation)
        assert ndimage.label(kept)[1] == 1
        assert segment.area == kept.sum() == np.bincount(labels.ravel())[1:].max()
        assert cleaned.removed_pixels == mask.sum() - segment.area


def test_near_duplicates_are_dropped_and_the_best_is_kept() -> None:
    a, b, c = np.zeros((3, 20, 20), bool)
    a[2:12, 2:12] = b[2:12, 3:12] = c[2:12, 10:20] = True
    segmentation = instances(a, b, c, scores=[0.7, 0.9, 0.1])
    assert [each.id for each in without_duplicates(segmentation.segments, 0.8)] == [2, 3]
    assert [each.id for each in without_duplicates(segmentation.segments, 0.95)] == [1, 2, 3]
    assert clean(segmentation, CleaningOptions(deduplicate=0.8)).dropped_duplicates == 1


def test_small_segments_are_dropped() -> None:
    small, large = np.zeros((2, 5, 5), bool)
    small[0, :2] = large[2:] = True
    cleaned = clean(instances(small, large), CleaningOptions(min_area=3))
    assert [each.id for each in cleaned.segmentation.segments] == [2]
    assert cleaned.dropped_small == 1


def test_merged_stuff_is_one_segment_and_things_stay_apart() -> None:
    ids = np.array([[1, 1, 2, 4], [3, 3, 2, 4]])
    segmentation = partition(ids)
    segments = clean(segmentation, CleaningOptions(merge_labels={"ground": ["sky"]})).segmentation.segments
    merged = {each.label: each for each in segments}
    assert (decode(merged["ground"].segmentation) == (ids % 2 == 0)).all()
    assert merged["ground"].category_id == 2
    assert merged["ground"].score == pytest.approx((0.88 * 2 + 0.86 * 2) / 4)
    assert sum(each.label == "cell" for each in segments) == 2


def test_in_semantic_results_all_of_a_merged_label_is_one_segment() -> None:
    ids = np.array([[1, 1, 2, 5], [3, 3, 2, 5]])
    parts = partition(ids, labels=("sky", "cell"), task="semantic")
    options = CleaningOptions(merge_labels={"all": ["cell", "sky"]}, category_ids={"all": 9})
    (segment,) = clean(parts, options).segmentation.segments
    assert segment.area == ids.size
    assert segment.category_id == 9
    assert len(clean(partition(ids), options).segmentation.segments) == 4  # stuff is one, the three things stay apart


@pytest.mark.parametrize("options", [CleaningOptions(min_area=-1), CleaningOptions(fill_holes=-1), CleaningOptions(deduplicate=0)])
def test_options_out_of_range_are_refused(options: CleaningOptions) -> None:
    with pytest.raises(ValueError, match="must be"):
        clean(instances(np.ones((2, 2), bool)), options)
