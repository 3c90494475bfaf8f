"""Masks painted over a picture, beside what supervision paints."""

from dataclasses import replace

import numpy as np
import pytest
import supervision
from scipy import ndimage

from proscale.overlay import (
    OPACITY,
    OUTLINE_OPACITY,
    _paint_at_once,
    _paint_one_by_one,
    _tint,
    _tint_few,
    draw_overlay,
    segment_colours,
)
from proscale.results import Segment, Segmentation
from proscale.rle import decode, encode


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


def cells(count: int = 40, shape: tuple[int, int] = (300, 500)) -> tuple[np.ndarray, Segmentation]:
    """A picture and segments that share no pixel; some of it is of none."""
    rng = np.random.default_rng(6)
    seeds = rng.random((count, 2)) * shape
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distances = (rows[..., None] - seeds[:, 0]) ** 2 + (columns[..., None] - seeds[:, 1]) ** 2
    ids = np.where(distances.min(-1) < 40**2, distances.argmin(-1) + 1, 0)
    found = [segmentation(ids == number).segments[0] for number in np.unique(ids[ids > 0])]
    segments = tuple(replace(each, id=i, isthing=bool(i % 3), category_id=i) for i, each in enumerate(found, 1))
    return rng.integers(0, 256, (*shape, 3), np.uint8), Segmentation("panoptic", shape, segments)


@pytest.mark.parametrize("outlines", [True, False])
@pytest.mark.parametrize("at_once", [1, 1700, 1 << 20])
def test_painted_at_once_as_one_by_one(monkeypatch: pytest.MonkeyPatch, outlines: bool, at_once: int) -> None:
    monkeypatch.setattr("proscale.overlay.PIXELS_AT_ONCE", at_once)
    image, result = cells()
    fast, slow = image.copy(), image.copy()
    colours = segment_colours(result.segments)
    _paint_at_once(fast, result.segments, colours, 0.3, outlines)
    _paint_one_by_one(slow, result.segments, colours, 0.3, outlines)
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(draw_overlay(image, result, labels=False, opacity=0.3, outlines=outlines), slow)


def test_overlapping_instances_shine_through_each_other() -> None:
    left, right = np.zeros((2, 30, 60), bool)
    left[5:25, 5:40] = right[5:25, 20:55] = True
    segments = tuple(replace(segmentation(mask).segments[0], id=i) for i, mask in enumerate((left, right), 1))
    image = np.full((30, 60, 3), 100, np.uint8)
    painted = draw_overlay(image, Segmentation("instance", (30, 60), segments), labels=False, outlines=False)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 4


class TestBesideSupervision:
    def detections(self, result: Segmentation) -> supervision.Detections:
        masks = np.stack([decode(each.segmentation) for each in result.segments])
        boxes = np.array([(x, y, x + width, y + height) for x, y, width, height in (each.bbox for each in result.segments)], float)
        return supervision.Detections(boxes, mask=masks, class_id=np.arange(len(masks)))

    def palette(self, result: Segmentation) -> supervision.ColorPalette:
        # Its pictures are BGR, ours RGB.
        return supervision.ColorPalette([supervision.Color(*colour[::-1]) for colour in segment_colours(result.segments).tolist()])

    @pytest.mark.parametrize("opacity", [0.2, OPACITY, 1.0])
    def test_masks_have_its_colours_within_a_level(self, opacity: float) -> None:
        image, result = cells()
        annotator = supervision.MaskAnnotator(self.palette(result), opacity=opacity)
        theirs = annotator.annotate(image.copy(), self.detections(result)).astype(int)
        ours = draw_overlay(image, result, labels=False, opacity=opacity, outlines=False).astype(int)
        assert np.abs(ours - theirs).max() <= 1

    def test_outlines_are_where_it_draws_them(self) -> None:
        """Its lines run through the pixels of the border; ours are the border, at the picture's edge alone left out."""
        image, result = cells()
        image[:] = 0
        annotator = supervision.PolygonAnnotator(supervision.Color(255, 255, 255), thickness=1)
        theirs = annotator.annotate(image.copy(), self.detections(result)).max(-1) > 0
        ours = draw_overlay(image, result, labels=False, opacity=0).max(-1) > 255 * OUTLINE_OPACITY / 2
        inside = np.s_[1:-1, 1:-1]
        assert (theirs & ours)[inside].sum() > 0.9 * ours[inside].sum()
        near = ndimage.binary_dilation(ours, np.ones((3, 3)))
        assert not (theirs & ~near)[inside].any()
