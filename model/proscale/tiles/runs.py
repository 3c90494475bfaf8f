"""Runs of pixels on a picture that nobody holds as a whole: cut to rectangles, compared, joined."""

import numpy as np
from numpy.typing import NDArray

from proscale.formats.runs import ColumnRuns, Positions, intersection
from proscale.tiles.layout import Box

Runs = NDArray[np.int32]
"""(3, R) int32: column, first row and row behind the last of every run, in pixels of the picture; sorted by column and row."""
NONE: Runs = np.zeros((3, 0), np.int32)


def placed(runs: ColumnRuns, top: int, left: int) -> Runs:
    """Runs of a window as runs of the picture. Args: top, left: of the window in pixels of the picture."""
    return np.stack([runs.columns + left, runs.tops + top, runs.bottoms + top]).astype(np.int32)


def cut(runs: Runs, box: Box) -> Runs:
    """What of the runs lies inside a box."""
    low, high = np.searchsorted(runs[0], (box.left, box.right))
    inside = runs[:, low:high]
    tops, bottoms = np.maximum(inside[1], box.top), np.minimum(inside[2], box.bottom)
    filled = tops < bottoms
    return np.stack([inside[0], tops, bottoms])[:, filled]


def area(runs: Runs) -> int:
    """Pixels."""
    return int((runs[2].astype(np.int64) - runs[1]).sum())


def bounds(runs: Runs) -> Box:
    """The least box around runs, of which there is at least one."""
    return Box(int(runs[1].min()), int(runs[0][0]), int(runs[2].max()), int(runs[0][-1]) + 1)


def common(first: Runs, second: Runs) -> int:
    """Pixels that both cover."""
    return intersection(_positions(first), _positions(second))


def shared(runs: Runs, others: Runs) -> Runs:
    """What both cover. Args: others: none of them touch each other, as `joined` has them."""
    return _within(runs, _positions(others))


def without(runs: Runs, others: Runs) -> Runs:
    """What the others do not cover. Args: others: none of them touch each other, as `joined` has them."""
    starts, ends = _positions(others)
    return _within(runs, (np.concatenate([[_FIRST], ends]), np.concatenate([starts, [_LAST]])))


def _within(runs: Runs, intervals: tuple[Positions, Positions]) -> Runs:
    """What of the runs lies in intervals of positions, which are sorted and apart."""
    starts, ends = _positions(runs)
    low, high = np.searchsorted(intervals[1], starts, "right"), np.searchsorted(intervals[0], ends, "left")
    counts = np.maximum(high - low, 0)
    ours = np.repeat(np.arange(len(starts)), counts)
    theirs = np.repeat(low, counts) + np.arange(len(ours)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = runs[0][ours]
    base = columns.astype(np.int64) * _STRIDE
    tops, bottoms = np.maximum(starts[ours], intervals[0][theirs]) - base, np.minimum(ends[ours], intervals[1][theirs]) - base
    return np.stack([columns, tops.astype(np.int32), bottoms.astype(np.int32)])


def joined(pieces: list[Runs]) -> Runs:
    """All that any of the pieces covers; runs that touch or overlap become one."""
    pieces = [piece for piece in pieces if piece.shape[1]]
    if len(pieces) <= 1:
        return pieces[0] if pieces else NONE
    everything = np.concatenate(pieces, axis=1)
    starts, ends = _positions(everything)
    order = np.argsort(starts, kind="stable")
    everything, starts, ends = everything[:, order], starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    columns, tops = everything[0][first], everything[1][first]
    bottoms = (ends[last] - columns.astype(np.int64) * _STRIDE).astype(np.int32)
    return np.stack([columns, tops, bottoms])


def to_columns(runs: Runs, size: tuple[int, int]) -> ColumnRuns:
    """As the formats take masks. Args: size: (height, width) of the picture."""
    columns, tops, bottoms = runs.astype(np.int64)
    return ColumnRuns(size, columns, tops, bottoms)


_STRIDE = 1 << 31
"""More than any row, so that runs of two columns never touch."""
_FIRST, _LAST = -1, 1 << 62
"""Positions before and behind all others."""


def _positions(runs: Runs) -> tuple[Positions, Positions]:
    base = runs[0].astype(np.int64) * _STRIDE
    return base + runs[1], base + runs[2]
