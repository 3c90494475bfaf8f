"""The definition of polygons.py: one mask, one pixel edge after the other."""

import numpy as np
from numpy.typing import NDArray

from proscale.formats.polygons import Polygon, Ring, signed_area
from proscale.results import RLE
from proscale.rle import decode

Point = tuple[int, int]


def trace_slowly(rle: RLE) -> list[Polygon]:
    """`polygons.trace`, corner for corner."""
    mask = decode(rle)
    polygons = []
    for piece in _pieces(mask):
        rings = sorted(_rings(piece), key=lambda ring: ring[0].tolist())
        (exterior,) = (ring for ring in rings if signed_area(ring) > 0)
        polygons.append(Polygon(exterior, tuple(ring for ring in rings if signed_area(ring) < 0)))
    return polygons


def _pieces(mask: NDArray[np.bool_]) -> list[set[Point]]:
    """Pixels (x, y) of 4-connected pieces, by their first pixel in the order of columns and rows."""
    left = {(int(x), int(y)) for y, x in zip(*np.nonzero(mask), strict=True)}
    pieces = []
    for seed in sorted(left):
        if seed not in left:
            continue
        piece, waiting = set[Point](), [seed]
        left.remove(seed)
        while waiting:
            x, y = waiting.pop()
            piece.add((x, y))
            for near in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        pieces.append(piece)
    return pieces


def _rings(piece: set[Point]) -> list[Ring]:
    """Closed walks around a piece with its pixels on the right-hand side, each from its least corner."""
    steps: dict[Point, list[Point]] = {}
    for x, y in piece:
        for outside, start, end in (
            ((x, y - 1), (x, y), (x + 1, y)),
            ((x + 1, y), (x + 1, y), (x + 1, y + 1)),
            ((x, y + 1), (x + 1, y + 1), (x, y + 1)),
            ((x - 1, y), (x, y + 1), (x, y)),
        ):
            if outside not in piece:
                steps.setdefault(start, []).append(end)
    rings = []
    while steps:
        start = min(steps)
        walk, heading = [start], (0, 0)
        while True:
            x, y = walk[-1]
            # Where two pixels of the piece meet at a point, a turn to the left keeps the ring from touching itself.
            ways = sorted(steps[x, y], key=lambda end: heading[0] * (end[1] - y) - heading[1] * (end[0] - x))
            end = ways[0]
            steps[x, y].remove(end)
            if not steps[x, y]:
                del steps[x, y]
            heading = (end[0] - x, end[1] - y)
            if end == start:
                break
            walk.append(end)
        rings.append(_corners(walk))
    return rings


def _corners(walk: list[Point]) -> Ring:
    points = np.array(walk)
    before, behind = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turning: Ring = points[(before != behind).any(1)]
    return turning
