"""Masks as runs of pixels inside one column each: what polygons, measures and cleaning are computed from, without a dense mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.results import RLE
from proscale.rle import compress, runs_of_all, runs_of_ones

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class ColumnRuns:
    """The ones of a mask. Three arrays (R,) int64, sorted by column and row; two runs of one column never touch.

    Run i covers the pixels of column `columns[i]` from row `tops[i]` up to, and without, row `bottoms[i]`.
    """

    size: tuple[int, int]
    """(height, width) of the mask in pixels."""
    columns: Positions
    tops: Positions
    bottoms: Positions

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int((self.bottoms - self.tops).sum())

    def only(self, chosen: NDArray[np.bool_]) -> "ColumnRuns":
        """The runs that `chosen` (R,) bool marks."""
        return ColumnRuns(self.size, self.columns[chosen], self.tops[chosen], self.bottoms[chosen])


def column_runs(rle: RLE) -> ColumnRuns:
    """Split a mask's runs at the ends of columns. Raises ValueError as `runs_of_ones` does."""
    columns, tops, bottoms, _ = _split(*runs_of_ones(rle), rle.size[0])
    return ColumnRuns(rle.size, columns, tops, bottoms)


@dataclass(frozen=True)
class SideBySide:
    """Masks of one size as one wide mask, from left to right, an empty column behind each: what is computed for many at once."""

    runs: ColumnRuns
    count: int
    """Masks."""

    @property
    def stride(self) -> int:
        """Columns from one mask to the next."""
        return self.runs.size[1] // max(1, self.count)

    @property
    def owners(self) -> Positions:
        """(R,): the mask of every run."""
        return self.runs.columns // self.stride

    @property
    def columns(self) -> Positions:
        """(R,): the column of every run in its own mask."""
        return self.runs.columns % self.stride


def side_by_side(masks: Sequence[RLE]) -> SideBySide:
    """`column_runs` of many masks. Raises ValueError as `runs_of_ones` does."""
    height, width = masks[0].size if masks else (0, 0)
    starts, ends, owners = runs_of_all(masks)
    columns, tops, bottoms, index = _split(starts, ends, height)
    size = (height, len(masks) * (width + 1))
    return SideBySide(ColumnRuns(size, columns + owners[index] * (width + 1), tops, bottoms), len(masks))


def alone(runs: ColumnRuns) -> SideBySide:
    """One mask as many."""
    return SideBySide(ColumnRuns((runs.size[0], runs.size[1] + 1), runs.columns, runs.tops, runs.bottoms), 1)


def _split(starts: Positions, ends: Positions, height: int) -> tuple[Positions, Positions, Positions, Positions]:
    """Columns, tops and bottoms of runs that are cut at the ends of columns, and which of the given ones each is of."""
    height = max(height, 1)
    first, last = starts // height, (ends - 1) // height
    pieces = last - first + 1
    index = np.repeat(np.arange(len(starts)), pieces)
    columns = first[index] + np.arange(len(index)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    tops = np.maximum(starts[index] - columns * height, 0)
    bottoms = np.minimum(ends[index] - columns * height, height)
    return columns, tops, bottoms, index


def to_rle(runs: ColumnRuns) -> RLE:
    """The inverse of `column_runs`."""
    height, width = runs.size
    starts, ends = runs.columns * height + runs.tops, runs.columns * height + runs.bottoms
    apart = starts[1:] != ends[:-1]
    edges = np.zeros(2 * (int(apart.sum()) + (len(runs) > 0)) + 2, np.int64)
    if len(runs):
        edges[1:-1:2] = starts[np.concatenate([[True], apart])]
        edges[2:-1:2] = ends[np.concatenate([apart, [True]])]
    edges[-1] = height * width
    lengths = np.diff(edges)
    if len(lengths) > 1 and lengths[-1] == 0:
        lengths = lengths[:-1]
    return RLE(runs.size, compress(lengths))


def complement(runs: ColumnRuns) -> ColumnRuns:
    """The runs of zeros."""
    height, width = runs.size
    if not height or not width:
        return runs
    # Every column begins and ends with a run of zeros, possibly an empty one.
    columns = np.concatenate([np.arange(width), runs.columns])
    tops = np.concatenate([np.zeros(width, np.int64), runs.bottoms])
    ends = np.concatenate([runs.columns, np.arange(width)])
    bottoms = np.concatenate([runs.tops, np.full(width, height)])
    first, second = np.lexsort((tops, columns)), np.lexsort((bottoms, ends))
    columns, tops, bottoms = columns[first], tops[first], bottoms[second]
    return ColumnRuns(runs.size, columns, tops, bottoms).only(bottoms > tops)


def components(runs: ColumnRuns) -> Positions:
    """Label 4-connected pieces: (R,) int64, one label in 0..pieces - 1 per run, numbered by their first run."""
    upper, lower = _touching(runs)
    labels = np.arange(len(runs))
    while True:
        # Every piece takes the smallest label among its neighbours', then labels are followed to their roots.
        smallest = np.minimum(labels[upper], labels[lower])
        joined = labels.copy()
        np.minimum.at(joined, labels[upper], smallest)
        np.minimum.at(joined, labels[lower], smallest)
        while (joined[joined] != joined).any():
            joined = joined[joined]
        joined = joined[labels]
        if (joined == labels).all():
            return np.unique(labels, return_inverse=True)[1].astype(np.int64)
        labels = joined


def intersection(first: tuple[Positions, Positions], second: tuple[Positions, Positions]) -> int:
    """Pixels that two masks share. Args: starts and ends of both, as `runs_of_ones` gives them."""
    if not len(first[0]) or not len(second[0]):
        return 0
    starts, ends = second
    before = np.concatenate([[0], np.cumsum(ends - starts)])

    def ones_before(positions: Positions) -> Positions:
        index = np.searchsorted(starts, positions, "right")
        # The run that began last may not have ended yet.
        return before[index] - np.where(index > 0, np.maximum(ends[index - 1] - positions, 0), 0)

    return int((ones_before(first[1]) - ones_before(first[0])).sum())


def _touching(runs: ColumnRuns) -> tuple[Positions, Positions]:
    """Pairs of runs in neighbouring columns that share a pixel edge, as two arrays of indices."""
    stride = runs.size[0] + 2
    tops, bottoms = runs.columns * stride + runs.tops, runs.columns * stride + runs.bottoms
    # Of the next column: the first run that ends below this one's top, and the first that begins at or below its bottom.
    low = np.searchsorted(bottoms, tops + stride, "right")
    high = np.searchsorted(tops, bottoms + stride, "left")
    count = np.maximum(high - low, 0)
    left = np.repeat(np.arange(len(runs)), count)
    right = np.repeat(low, count) + np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    return left, right
