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
    rings = _rings(runs)
    starts = np.cumsum([0, *(len(ring) for ring in rings[:-1])])
    corners = np.concatenate(rings)
    stride = runs.size[0] + 1
    # The leftmost, then topmost corner of a ring: the pixel right below it lies inside the ring.
    first = np.minimum.reduceat(corners[:, 0] * stride + corners[:, 1], starts)
    column, row = first // stride, first % stride
    solid = _run_at(runs, column, row) >= 0
    # Inside of a hole is nothing; what the hole is in lies to the left of that corner.
    owner = components(runs)[_run_at(runs, np.where(solid, column, column - 1), row)]
    exteriors = {int(owner[i]): _directed(rings[i], positive=True) for i in np.flatnonzero(solid)}
    holes: dict[int, list[Ring]] = {piece: [] for piece in exteriors}
    for i in np.flatnonzero(~solid):
        holes[int(owner[i])].append(_directed(rings[i], positive=False))
    return [Polygon(exteriors[piece], tuple(holes[piece])) for piece in sorted(exteriors)]


def signed_area(ring: Ring) -> int:
    """Area of a ring in pixels; positive when x, y turn as from the x axis to the y axis."""
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def perimeter(polygons: Sequence[Polygon]) -> int:
    """Length of all rings in pixel edges, holes included."""
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    return int(sum(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum() for ring in rings))


def _directed(ring: Ring, *, positive: bool) -> Ring:
    return ring if (signed_area(ring) > 0) == positive else ring[::-1]


def _run_at(runs: ColumnRuns, columns: Positions, rows: Positions) -> Positions:
    """Index of the run that covers each pixel, -1 where none does."""
    stride = runs.size[0] + 1
    index = np.searchsorted(runs.columns * stride + runs.tops, columns * stride + rows, "right") - 1
    covers = (index >= 0) & (runs.columns[index] == columns) & (rows < runs.bottoms[index])
    return np.where(covers, index, -1)


def _rings(runs: ColumnRuns) -> list[Ring]:
    """All rings, each corner once per ring."""
    corners, upper = _corners(runs)
    # Along every line of pixel edges, corners pair up: an edge begins at the first, ends at the second, and so on. Where two pixels
    # meet at a point, the edges of each pixel pair with its own corner, so that pieces that only touch there stay apart.
    across, down = np.lexsort((corners[:, 0], corners[:, 1], upper)), np.lexsort((upper, corners[:, 1], corners[:, 0]))
    beside, below = np.empty(len(corners), np.int64), np.empty(len(corners), np.int64)
    beside[across[::2]], beside[across[1::2]] = across[1::2], across[::2]
    below[down[::2]], below[down[1::2]] = down[1::2], down[::2]
    horizontal, vertical = beside.tolist(), below.tolist()
    seen = bytearray(len(corners))
    walks = []
    for start in range(len(corners)):
        if seen[start]:
            continue
        walk, corner = list[int](), start
        while not seen[corner]:
            other = horizontal[corner]
            seen[corner] = seen[other] = 1
            walk += (corner, other)
            corner = vertical[other]
        walks.append(walk)
    keys = (corners[:, 0] * (runs.size[0] + 1) + corners[:, 1]).tolist()
    return [corners[ring] for walk in walks for ring in _simple(walk, keys)]


def _simple(walk: list[int], keys: list[int]) -> list[list[int]]:
    """Cut a closed walk where it touches itself, so that no ring meets a point twice."""
    if len({keys[corner] for corner in walk}) == len(walk):
        return [walk]
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
