"""Masks -> polygons with holes and several parts, traced along pixel edges: filling them again gives the mask bit for bit.

Frame: x to the right, y down, in pixels; the picture's top left corner is (0, 0) and the centre of its first pixel (0.5, 0.5).
Pieces are 4-connected: pixels that touch at a corner alone belong to two polygons. Rings never touch themselves, and a polygon's
inside is connected, so that every polygon is valid in the sense of OGC's Simple Features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.formats.runs import ColumnRuns, Positions, column_runs, components
from proscale.results import RLE

Ring = NDArray[np.int64]
"""(N, 2) int64: x and y of the corners of a closed ring in pixels; the first corner is not repeated at the end."""


@dataclass(frozen=True)
class Polygon:
    """One piece of a mask."""

    exterior: Ring
    """Anticlockwise where y points up, that is: clockwise as seen on a screen has a positive area in pixels' coordinates."""
    holes: tuple[Ring, ...]
    """Of the other direction."""


def trace(rle: RLE) -> list[Polygon]:
    """The polygons of a mask, from left to right by their first column.

    Raises:
        ValueError: the RLE is broken.
    """
    return trace_runs(column_runs(rle))


def trace_runs(runs: ColumnRuns) -> list[Polygon]:
    """`trace` of a mask in runs."""
    if not len(runs):
        return []
    corners, starts = _rings(runs)
    ends = np.append(starts[1:], len(corners))
    stride = runs.size[0] + 1
    # The leftmost, then topmost corner of a ring: the pixel right below it lies inside the ring.
    first = np.minimum.reduceat(corners[:, 0] * stride + corners[:, 1], starts)
    column, row = first // stride, first % stride
    solid = _run_at(runs, column, row) >= 0
    # Inside of a hole is nothing; what the hole is in lies to the left of that corner.
    owner = components(runs)[_run_at(runs, np.where(solid, column, column - 1), row)].tolist()
    corners = _directed(corners, starts, ends, solid)
    # All rings of a mask are computed at once, since there may be hundreds of them with a few corners each.
    rings = [corners[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    exteriors = {owner[i]: rings[i] for i in np.flatnonzero(solid).tolist()}
    holes: dict[int, list[Ring]] = {piece: [] for piece in exteriors}
    for i in np.flatnonzero(~solid).tolist():
        holes[owner[i]].append(rings[i])
    return [Polygon(exteriors[piece], tuple(holes[piece])) for piece in sorted(exteriors)]


def signed_area(ring: Ring) -> int:
    """Area of a ring in pixels; positive when x, y turn as from the x axis to the y axis."""
    return int(_twice_the_areas(ring, np.zeros(1, np.int64), np.array([len(ring)]))[0]) // 2


def perimeter(polygons: Sequence[Polygon]) -> int:
    """Length of all rings in pixel edges, holes included."""
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    return int(sum(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum() for ring in rings))


def _twice_the_areas(corners: Ring, starts: Positions, ends: Positions) -> Positions:
    """Of rings that follow each other, (R,); signed as in `signed_area`."""
    following = np.arange(1, len(corners) + 1)
    following[ends - 1] = starts
    x, y = corners[:, 0], corners[:, 1]
    areas: Positions = np.add.reduceat(x * y[following] - x[following] * y, starts)
    return areas


def _directed(corners: Ring, starts: Positions, ends: Positions, positive: NDArray[np.bool_]) -> Ring:
    """Rings that follow each other, those turned round whose area does not have the wanted sign."""
    turned = (_twice_the_areas(corners, starts, ends) > 0) != positive
    ring_of = np.repeat(np.arange(len(starts)), ends - starts)
    here = np.arange(len(corners))
    directed: Ring = corners[np.where(turned[ring_of], (starts + ends - 1)[ring_of] - here, here)]
    return directed


def _run_at(runs: ColumnRuns, columns: Positions, rows: Positions) -> Positions:
    """Index of the run that covers each pixel, -1 where none does."""
    stride = runs.size[0] + 1
    index = np.searchsorted(runs.columns * stride + runs.tops, columns * stride + rows, "right") - 1
    covers = (index >= 0) & (runs.columns[index] == columns) & (rows < runs.bottoms[index])
    return np.where(covers, index, -1)


def _rings(runs: ColumnRuns) -> tuple[Ring, Positions]:
    """All rings one after the other, each corner once per ring; and where each begins."""
    corners, upper = _corners(runs)
    # Along every line of pixel edges, corners pair up: an edge begins at the first, ends at the second, and so on. Where two pixels
    # meet at a point, the edges of each pixel pair with its own corner, so that pieces that only touch there stay apart.
    across, down = np.lexsort((corners[:, 0], corners[:, 1], upper)), np.lexsort((upper, corners[:, 1], corners[:, 0]))
    beside, below = np.empty(len(corners), np.int64), np.empty(len(corners), np.int64)
    beside[across[::2]], beside[across[1::2]] = across[1::2], across[::2]
    below[down[::2]], below[down[1::2]] = down[1::2], down[::2]
    order, starts = _walks(beside.tolist(), below.tolist())
    keys = corners[:, 0] * (runs.size[0] + 1) + corners[:, 1]
    met = np.zeros(len(corners), bool)
    by_key = np.argsort(keys, kind="stable")
    same = keys[by_key][1:] == keys[by_key][:-1]
    met[by_key[1:][same]] = met[by_key[:-1][same]] = True
    # A walk touches itself only at points where two pixels meet.
    suspects = np.add.reduceat(met[order], starts) > 1
    if suspects.any():
        order, starts = _cut(order, starts, suspects, keys.tolist())
    return corners[order], np.array(starts)


def _walks(horizontal: list[int], vertical: list[int]) -> tuple[list[int], list[int]]:
    """Closed walks along edges: corners in order, and where each walk begins. Args: a corner -> its neighbour along either edge."""
    seen = bytearray(len(horizontal))
    order, starts = list[int](), list[int]()
    start = seen.find(0)
    while start >= 0:
        starts.append(len(order))
        corner = start
        while not seen[corner]:
            other = horizontal[corner]
            seen[corner] = seen[other] = 1
            order.append(corner)
            order.append(other)
            corner = vertical[other]
        start = seen.find(0, start)
    return order, starts


def _cut(order: list[int], starts: list[int], suspects: NDArray[np.bool_], keys: list[int]) -> tuple[list[int], list[int]]:
    """Walks with those cut that touch themselves."""
    cut, cut_starts = list[int](), list[int]()
    for start, end, suspect in zip(starts, [*starts[1:], len(order)], suspects.tolist(), strict=True):
        for ring in _simple(order[start:end], keys) if suspect else [order[start:end]]:
            cut_starts.append(len(cut))
            cut += ring
    return cut, cut_starts


def _simple(walk: list[int], keys: list[int]) -> list[list[int]]:
    """Cut a closed walk where it touches itself, so that no ring meets a point twice."""
    rings, open_walk, position = [], list[int](), dict[int, int]()
    for corner in walk:
        key = keys[corner]
        if key in position:
            start = position[key]
            ring = open_walk[start:]
            rings.append(ring)
            for each in ring:
                del position[keys[each]]
            del open_walk[start:]
        position[key] = len(open_walk)
        open_walk.append(corner)
    return [*rings, open_walk]


def _corners(runs: ColumnRuns) -> tuple[Ring, NDArray[np.bool_]]:
    """Points where the outline turns, (N, 2) x and y, twice where two corners of pixels meet; and whether the mask lies below, (N,)."""
    stride = runs.size[0] + 1
    points, upper = [], []
    for rows, is_top in ((runs.bottoms, False), (runs.tops, True)):
        edges = runs.columns * stride + rows
        # An outline turns where a run's end is not continued by one of the same kind in the next column.
        values, counts = np.unique(np.concatenate([edges, edges + stride]), return_counts=True)
        turning = values[counts == 1]
        points.append(np.stack([turning // stride, turning % stride], 1))
        upper.append(np.full(len(turning), is_top))
    return np.concatenate(points), np.concatenate(upper)
