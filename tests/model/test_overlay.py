"""Masks painted over a picture."""

import numpy as np
import pytest

from proscale.overlay import OPACITY, _tint, _tint_few, draw_overlay, segment_colours
from proscale.results import Segment, Segmentation
from proscale.rle import encode


def segmentation(mask: np.ndarray) -> Segmentation:
    area = int(mask.sum())
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    return Segmentation("panoptic", mask.shape, (Segment(1, 1, "cat", True, 0.9, tuple(map(int, box)), area, encode(mask)),))


def test_inside_is_tinted_the_outline_drawn_and_the_rest_unchanged() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    result = segmentation(mask)
    painted = draw_overlay(image, result, labels=False)
    assert np.array_equal(painted[~mask], image[~mask])
    inside = painted[11:29, 21:49].reshape(-1, 3)
    colour = segment_colours(result.segments)[0]
    assert (inside == np.round(100 + (colour.astype(float) - 100) * OPACITY)).all()
    assert (painted[10, 20:50].min(-1) > 178).all()
    assert np.array_equal(image, np.full((40, 60, 3), 100))


def test_the_border_of_the_picture_is_no_outline() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:12, :15] = True
    painted = draw_overlay(np.zeros((20, 30, 3), np.uint8), segmentation(mask), labels=False)
    outline = painted.min(-1) > 170
    assert outline[11, :15].all()
    assert outline[:12, 14].all()
    assert not outline[:11, :14].any()


def test_large_segments_are_named() -> None:
    image, mask = np.zeros((200, 300, 3), np.uint8), np.ones((200, 300), bool)
    result = segmentation(mask)
    plain, named = (draw_overlay(image, result, labels=labels) for labels in (False, True))
    changed = np.argwhere((plain != named).any(-1))
    assert len(changed)
    assert np.allclose(changed.mean(0), (100, 150), atol=12)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="the picture has"):
        draw_overlay(np.zeros((4, 4, 3), np.uint8), segmentation(np.ones((5, 4), bool)))


def test_things_differ_and_stuff_of_one_kind_is_alike() -> None:
    mask = encode(np.ones((2, 2), bool))

    def segment(number: int, category: int, isthing: bool) -> Segment:
        return Segment(number, category, "x", isthing, 1.0, (0, 0, 2, 2), 4, mask)

    colours = segment_colours([segment(1, 5, True), segment(2, 5, True), segment(3, 9, False), segment(8, 9, False)])
    assert not np.array_equal(colours[0], colours[1])
    assert np.array_equal(colours[2], colours[3])


def test_the_few_pixels_of_an_outline_are_tinted_as_all_would_be() -> None:
    rng = np.random.default_rng(8)
    picture = rng.integers(0, 256, (30, 40, 3), np.uint8)
    mask, colour = rng.random((30, 40)) < 0.1, np.array([10, 200, 255])
    few, all_of_it = picture.copy(), picture.copy()
    _tint_few(few, mask, colour, 0.7)
    _tint(all_of_it, mask, colour, 0.7)
    np.testing.assert_array_equal(few, all_of_it)
