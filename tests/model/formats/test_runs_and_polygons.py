"""Runs and polygons against dense masks, SciPy's labels and shapely's geometry."""

import numpy as np
import pytest
import shapely
from scipy import ndimage

from proscale.formats.polygons import Outlines, Polygon, outlines_of, perimeter, signed_area, trace, trace_all
from proscale.formats.polygons_slow import trace_slowly
from proscale.formats.runs import column_runs, complement, components, intersection, side_by_side, to_rle
from proscale.results import RLE
from proscale.rle import encode, runs_of_ones

FOUR_CONNECTED_TWICE_AT_A_CORNER = """
###..
#.#..
##.#.
#.##.
####.
"""
RING_AROUND_AN_ISLAND = """
#####
#...#
#.#.#
#...#
#####
"""


def drawn(text: str) -> np.ndarray:
    return np.array([[mark == "#" for mark in line] for line in text.split()])


def random_masks(count: int, largest: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.random(rng.integers(1, largest, 2)) < rng.random() for _ in range(count)]


MASKS = [
    drawn(FOUR_CONNECTED_TWICE_AT_A_CORNER),
    drawn(RING_AROUND_AN_ISLAND),
    np.ones((3, 4), bool),
    np.zeros((3, 4), bool),
    *random_masks(300),
]


def to_shapely(polygons: list[Polygon]) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([shapely.Polygon(each.exterior, each.holes) for each in polygons])


@pytest.mark.parametrize("chunk", range(4))
def test_polygons_are_valid_and_filling_them_gives_the_mask(chunk: int) -> None:
    for mask in MASKS[chunk::4]:
        shape = to_shapely(trace(encode(mask)))
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
        assert shape.is_valid
        assert shape.area == mask.sum()
        assert (shapely.contains_xy(shape, columns + 0.5, rows + 0.5) == mask).all()


def same(left: list[Polygon], right: list[Polygon]) -> bool:
    def rings(polygons: list[Polygon]) -> list[list[list[list[int]]]]:
        return [[ring.tolist() for ring in (each.exterior, *each.holes)] for each in polygons]

    return rings(left) == rings(right)


@pytest.mark.parametrize("chunk", range(4))
def test_corner_for_corner_as_the_slow_twin(chunk: int) -> None:
    for mask in MASKS[chunk::4]:
        assert same(trace(encode(mask)), trace_slowly(encode(mask)))


def test_large_ragged_masks_too() -> None:
    rng = np.random.default_rng(1)
    for share in (0.3, 0.5, 0.6, 0.9):
        mask = ndimage.zoom(rng.random((8, 11)), 7, order=1) + rng.normal(0, 0.15, (56, 77)) < share
        assert same(trace(encode(mask)), trace_slowly(encode(mask)))


def test_many_masks_at_once_as_one_by_one() -> None:
    rng = np.random.default_rng(5)
    masks = [*(rng.random((9, 13)) < share for share in (0.2, 0.5, 0.8)), np.zeros((9, 13), bool), np.ones((9, 13), bool)]
    outlines = trace_all(side_by_side([encode(mask) for mask in masks]))
    for i, mask in enumerate(masks):
        assert same(outlines.polygons_of(i), trace_slowly(encode(mask)))
    again = outlines_of([outlines.polygons_of(i) for i in range(len(masks))])
    for name in Outlines.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(outlines, name))
    assert len(trace_all(side_by_side([])).masks) == 1


def test_one_polygon_per_piece_and_one_hole_per_pocket_of_it() -> None:
    for mask in MASKS:
        polygons = trace(encode(mask))
        labels, count = ndimage.label(mask)
        pieces = [labels == piece for piece in range(1, count + 1)]
        pockets = [ndimage.label(ndimage.binary_fill_holes(piece) & ~piece)[1] for piece in pieces]
        assert len(polygons) == count
        assert sorted(len(each.holes) for each in polygons) == sorted(pockets)
        assert all(signed_area(each.exterior) > 0 and all(signed_area(hole) < 0 for hole in each.holes) for each in polygons)


def test_rings_have_corners_only() -> None:
    ((ring,),) = [(polygon.exterior,) for polygon in trace(encode(np.ones((30, 20), bool)))]
    assert sorted(map(tuple, ring.tolist())) == [(0, 0), (0, 30), (20, 0), (20, 30)]
    assert perimeter(trace(encode(drawn(RING_AROUND_AN_ISLAND)))) == 4 * 5 + 4 * 3 + 4


def test_components_equal_those_of_scipy() -> None:
    for mask in MASKS:
        runs = column_runs(encode(mask))
        labels = components(runs)
        expected, count = ndimage.label(mask)
        assert len(set(labels.tolist())) == count
        there = expected[runs.tops, runs.columns]
        assert len(set(zip(labels.tolist(), there.tolist(), strict=True))) == count


def test_runs_round_trip_and_complement() -> None:
    for mask in MASKS:
        rle = encode(mask)
        runs = column_runs(rle)
        assert to_rle(runs) == rle
        assert runs.area == mask.sum()
        assert to_rle(complement(runs)) == encode(~mask)


def test_intersection() -> None:
    rng = np.random.default_rng(3)
    for mask in MASKS:
        other = rng.random(mask.shape) < 0.5
        assert intersection(runs_of_ones(encode(mask)), runs_of_ones(encode(other))) == (mask & other).sum()


def test_broken_rle_is_refused() -> None:
    with pytest.raises(ValueError, match="cover"):
        side_by_side([encode(np.ones((4, 4), bool)), RLE((4, 4), encode(np.ones((3, 3), bool)).counts)])
    with pytest.raises(ValueError, match="cover"):
        trace(RLE((4, 4), encode(np.ones((3, 3), bool)).counts))
