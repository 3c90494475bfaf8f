"""Shapes of annotation tools against dense masks, read back as the tools read them."""

import base64
import io

import cvat_sdk.masks
import numpy as np
import pytest
import shapely
from PIL import Image

from proscale.results import Segment
from proscale.rle import encode, measure
from proscale_service.annotation.shapes import bitmask_url, brush_rle, cvat_points, outlines


def segment_of(mask: np.ndarray) -> Segment:
    rle = encode(mask)
    area, box = measure(rle)
    return Segment(1, 1, "a", True, 0.5, box, area, rle)


def masks(count: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    made = [rng.random(rng.integers(1, 40, 2)) < rng.random() for _ in range(count)]
    long = np.zeros((300, 500), bool)
    long[3:290, 2:499] = True
    return [*made, np.ones((3, 4), bool), np.zeros((5, 6), bool), np.ones((400, 300), bool), long]


def unpacked(rle: list[int]) -> np.ndarray:
    """rle-pack, read bit by bit: the inverse, slowly."""
    bits, at = "".join(f"{value:08b}" for value in rle), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


def test_cvat_reads_its_masks() -> None:
    for mask in masks():
        if not mask.any():
            with pytest.raises(ValueError, match="empty"):
                cvat_points(segment_of(mask))
            continue
        points = cvat_points(segment_of(mask))
        assert points == cvat_sdk.masks.encode_mask(mask)
        decoded = cvat_sdk.masks.decode_mask(points, image_width=mask.shape[1], image_height=mask.shape[0])
        np.testing.assert_array_equal(decoded, mask)


def test_brush_strokes_are_rgba() -> None:
    for mask in masks():
        values = unpacked(brush_rle(encode(mask))).reshape(*mask.shape, 4)
        np.testing.assert_array_equal(values, mask[..., None].repeat(4, 2) * 255)


def test_bitmasks_are_pngs() -> None:
    for mask in masks(5):
        head, _, data = bitmask_url(encode(mask)).partition(",")
        assert head == "data:image/png;base64"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3] > 0, mask)


def test_outlines_are_the_pieces_without_their_holes() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:30, 2:30] = mask[35:38, 35:38] = True
    mask[10:15, 10:15] = False
    whole, small = outlines(encode(mask), 0)
    assert shapely.Polygon(whole).area == 28 * 28
    assert shapely.Polygon(small).area == 9
    rows, columns = np.mgrid[:60, :60]
    disc = encode((rows - 30) ** 2 + (columns - 30) ** 2 < 20**2)
    (exact,), (simple,) = outlines(disc, 0), outlines(disc, 1.0)
    assert len(simple) < len(exact) / 2
    assert shapely.hausdorff_distance(shapely.Polygon(exact).boundary, shapely.Polygon(simple).boundary) <= 1 + 1e-9
