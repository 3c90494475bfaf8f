"""Masks -> polygons with holes and several parts, traced along pixel edges: filling them again gives the mask bit for bit.

Frame: x to the right, y down, in pixels; the picture's top left corner is (0, 0) and the centre of its first pixel (0.5, 0.5).
Pieces are 4-connected: pixels that touch at a corner alone belong to two polygons. Rings never touch themselves, and a polygon's
inside is connected, so that every polygon is valid in the sense of OGC's Simple Features.

All masks of a result are traced at once, since there may be hundreds of them with thousands of rings. `polygons_slow.py` is the
definition: it follows one pixel edge after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from proscale.formats.runs import ColumnRuns, Positions, SideBySide, side_by_side
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


@dataclass(frozen=True)
class Outlines:
    """The polygons of several masks in one array of corners. Every list of bounds begins with 0 and ends with the count of its things."""

    corners: Ring
    """Of all rings, one after the other. A ring begins at its leftmost, then topmost corner."""
    rings: Positions
    """(R + 1,): corners `rings[i]` to `rings[i + 1]` are ring i."""
    polygons: Positions
    """(P + 1,): rings `polygons[i]` to `polygons[i + 1]` are polygon i: its exterior, then its holes from left to right."""
    masks: Positions
    """(M + 1,): polygons `masks[i]` to `masks[i + 1]` are mask i's, from left to right by their first column."""

    def polygons_of(self, mask: int) -> list[Polygon]:
        """The polygons of one mask."""
        first, last = self.masks[mask], self.masks[mask + 1]
        bounds = self.polygons[first : last + 1].tolist()
        rings = [self.corners[a:b] for a, b in pairwise(self.rings[bounds[0] : bounds[-1] + 1].tolist())]
        return [Polygon(rings[a - bounds[0]], tuple(rings[a + 1 - bounds[0] : b - bounds[0]])) for a, b in pairwise(bounds)]


def trace(rle: RLE) -> list[Polygon]:
    """The polygons of a mask, from left to right by their first column.

    Raises:
        ValueError: the RLE is broken.
    """
    return trace_all(side_by_side([rle])).polygons_of(0)


def trace_all(masks: SideBySide) -> Outlines:
    """The polygons of several masks."""
    runs = masks.runs
    if not len(runs):
        return Outlines(np.zeros((0, 2), np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(masks.count + 1, np.int64))
    corners, starts, owners = _rings(_horizontal_edges(runs), runs)
    ends = np.append(starts[1:], len(corners))
    first = corners[starts]
    keys = first[:, 0] * (runs.size[0] + 1) + first[:, 1]
    # By polygon, which are ordered by their exterior's first corner, then the exterior before its holes.
    order = np.lexsort((keys, owners != np.arange(len(owners)), keys[owners]))
    lengths = (ends - starts)[order]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    moved = corners[np.arange(len(corners)) + np.repeat(starts[order] - bounds[:-1], lengths)]
    exteriors = np.flatnonzero((owners == np.arange(len(owners)))[order])
    stride = masks.stride
    of_mask = moved[bounds[exteriors], 0] // stride
    moved[:, 0] -= np.repeat(moved[bounds[:-1], 0] // stride * stride, lengths)
    return Outlines(moved, bounds, np.append(exteriors, len(order)), np.searchsorted(of_mask, np.arange(masks.count + 1)))


def outlines_of(masks: Sequence[Sequence[Polygon]]) -> Outlines:
    """The inverse of `Outlines.polygons_of`. Args: masks: the polygons of every mask."""
    polygons = [polygon for mask in masks for polygon in mask]
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    corners: Ring = np.concatenate(rings) if rings else np.zeros((0, 2), np.int64)
    counts = ([len(ring) for ring in rings], [1 + len(polygon.holes) for polygon in polygons], [len(mask) for mask in masks])
    return Outlines(corners, *(np.concatenate([[0], np.cumsum(each)]).astype(np.int64) for each in counts))


def signed_area(ring: Ring) -> int:
    """Area of a ring in pixels; positive when x, y turn as from the x axis to the y axis."""
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def perimeter(polygons: Sequence[Polygon]) -> int:
    """Length of all rings in pixel edges, holes included."""
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    return int(sum(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum() for ring in rings))


@dataclass(frozen=True)
class _Edges:
    """The straight horizontal pieces of all outlines, E of them, those along tops of runs first. Walked with the mask on the right."""

    rows: Positions
    left: Positions
    right: Positions
    """Columns of their two ends."""
    tops: int
    """How many run along tops of runs: they are walked to the right, the others to the left."""
    of_top: Positions
    """(R,): the edge along every run's top."""


def _horizontal_edges(runs: ColumnRuns) -> _Edges:
    upper, lower = _chains(runs.columns, runs.tops, runs.size[0]), _chains(runs.columns, runs.bottoms, runs.size[0])
    rows, left, right = (np.concatenate(both) for both in zip(upper[:3], lower[:3], strict=True))
    return _Edges(rows, left, right, len(upper[0]), upper[3])


def _chains(columns: Positions, rows: Positions, height: int) -> tuple[Positions, Positions, Positions, Positions]:
    """Ends of runs that continue each other in neighbouring columns, as one edge each: row, first and last corner; and each run's edge."""
    # Runs are sorted by column, so that a stable sort by row alone is one by row and column; of 16 bits it takes one pass.
    order = np.argsort(rows.astype(np.uint16) if height < 1 << 16 else rows, kind="stable")
    by_row, across = rows[order], columns[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (by_row[1:] != by_row[:-1]) | (across[1:] != across[:-1] + 1)
    first = np.flatnonzero(fresh)
    chain = np.empty(len(order), np.int64)
    chain[order] = np.cumsum(fresh) - 1
    return by_row[first], across[first], across[np.append(first[1:], len(order)) - 1] + 1, chain


def _rings(edges: _Edges, runs: ColumnRuns) -> tuple[Ring, Positions, Positions]:
    """All rings one after the other; where each begins; and the ring that is the exterior around each, its own for exteriors."""
    count, stride = len(edges.rows), runs.size[0] + 1
    is_top = np.arange(count) < edges.tops
    tails, heads = np.where(is_top, edges.left, edges.right), np.where(is_top, edges.right, edges.left)
    keys = np.concatenate([tails, heads]) * stride + np.concatenate([edges.rows, edges.rows])
    order, starts = _walks(keys, count, is_top)
    ring_of = np.empty(count, np.int64)
    ring_of[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=count))
    # Every edge has two corners, where it begins and where it ends.
    walked = np.stack([keys[:count][order], keys[count:][order]], 1).ravel()
    starts = 2 * starts
    lengths = np.diff(starts, append=len(walked))
    least = np.minimum.reduceat(walked, starts)
    # The leftmost, then topmost corner of a ring: an exterior leaves it along a top, a hole comes to it along a bottom.
    begin = np.flatnonzero(walked == np.repeat(least, lengths))
    within = np.arange(len(walked)) - np.repeat(starts, lengths) + np.repeat(begin - starts, lengths)
    walked = walked[np.repeat(starts, lengths) + within % np.repeat(lengths, lengths)]
    return np.stack([walked // stride, walked % stride], 1), starts, _owners(least, begin, ring_of, order, edges, runs)


def _walks(keys: Positions, count: int, is_top: NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """Edges in the order of closed walks along outlines that touch themselves nowhere, and where each walk begins.

    Args:
        keys: (2 E,) places of the corners in the order of columns and rows: where edges begin, then where they end.
        count: E.
    """
    # On every line between two columns corners pair up: a vertical edge lies between the first and the second, the third and the
    # fourth. Where two pixels meet at a point, the one above it comes first, so that the walk stays with its pixel.
    along = np.argsort(2 * keys + np.concatenate([is_top, is_top]), kind="stable")
    meeting = np.flatnonzero(keys[along][1:] == keys[along][:-1])
    order, starts = _cycles(_following(along, count))
    if len(meeting):
        # A walk that comes to such a point twice goes around one piece, and would touch itself there: it changes to the other pixel,
        # which makes two walks of it. Walks that meet there only once are of two pieces, and stay apart.
        walk = np.empty(count, np.int64)
        walk[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=count))
        twice = meeting[walk[along[meeting] % count] == walk[along[meeting + 1] % count]]
        if len(twice):
            along[twice], along[twice + 1] = along[twice + 1], along[twice]
            order, starts = _cycles(_following(along, count))
    return order, starts


def _following(along: Positions, count: int) -> list[int]:
    """The edge behind every edge. Args: along: corners in pairs, E of them ends and E beginnings of edges."""
    first, second = along[::2], along[1::2]
    ends = first >= count
    following = np.empty(count, np.int64)
    following[np.where(ends, first, second) - count] = np.where(ends, second, first)
    listed: list[int] = following.tolist()
    return listed


def _cycles(following: list[int]) -> tuple[Positions, Positions]:
    """The cycles of a permutation one after the other, and where each begins."""
    seen = bytearray(len(following))
    order, starts = list[int](), list[int]()
    start = seen.find(0)
    while start >= 0:
        starts.append(len(order))
        at = start
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = following[at]
        start = seen.find(0, start)
    return np.array(order), np.array(starts)


def _owners(least: Positions, begin: Positions, ring_of: Positions, order: Positions, edges: _Edges, runs: ColumnRuns) -> Positions:
    """Ring -> the exterior of its piece.

    Args:
        least: (R,) each ring's first corner, column * stride + row.
        begin: (R,) where it stands among the corners, two per edge.
        ring_of: (E,) edge -> ring.
        order: (E,) the edges as they are walked.
    """
    stride = runs.size[0] + 1
    owners = np.arange(len(least))
    holes = np.flatnonzero(order[begin // 2] >= edges.tops)
    if not len(holes):
        return owners
    # To the left of a hole's first corner lies the piece that it is a hole of. The ring along that run's top is the piece's exterior,
    # or another of its holes, which begins further left.
    columns, rows = least[holes] // stride - 1, least[holes] % stride
    left = np.searchsorted(runs.columns * stride + runs.tops, columns * stride + rows, "right") - 1
    owners[holes] = ring_of[edges.of_top[left]]
    while (owners[owners] != owners).any():
        owners = owners[owners]
    return owners
