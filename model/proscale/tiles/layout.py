"""Where windows lie on a picture, and which pixels each of them decides.

A pixel belongs to the window in which it lies deepest: farthest from those of the window's borders behind which the picture goes on.
All windows have one size and lie on a grid, so the deepest window of a pixel is found along each axis by itself, and what a window
decides is a rectangle, its core. Cores do not overlap and cover the picture. `dense.py` has the definition, pixel by pixel.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from proscale.config import Task
from proscale.errors import ParameterError
from proscale.results import Plan, Tiles
from proscale.tiles.options import Tiling

KEPT_SIZE = 1024
"""`auto`: side of windows for models that see pictures as they are, in pixels."""
SHRUNK = 2.0
"""`auto`: a picture that the network would see smaller than by this factor is cut into windows."""
_LARGE = (1 << 13, 1 << 14)

PlanPicture = Callable[[int, int, Sequence[Task]], Plan]
"""(height, width, tasks) -> the plan of a picture that is segmented as a whole."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; the ends are the first ones behind it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.top >= self.bottom or self.left >= self.right

    def shared(self, other: "Box") -> "Box":
        """What both cover; may be empty."""
        return Box(max(self.top, other.top), max(self.left, other.left), min(self.bottom, other.bottom), min(self.right, other.right))

    def meets(self, other: "Box") -> bool:
        """Whether they share a pixel."""
        return self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right

    def covers(self, other: "Box") -> bool:
        """Whether the other one lies inside."""
        return self.top <= other.top and self.left <= other.left and self.bottom >= other.bottom and self.right >= other.right


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of the picture."""

    length: int
    window: int
    starts: tuple[int, ...]
    """First pixels of the windows, ascending."""

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Where cores begin, and where the last one ends: the middle between two windows, of two middle pixels the second."""
        middles = [(start + self.window + following + 1) // 2 for start, following in zip(self.starts, self.starts[1:], strict=False)]
        return (0, *middles, self.length)

    @property
    def overlap(self) -> int:
        """Least number of pixels that neighbouring windows share; 0 with one window."""
        return min((start + self.window - after for start, after in zip(self.starts, self.starts[1:], strict=False)), default=0)

    def overlapping(self, number: int) -> range:
        """Windows that share pixels with a window, itself included."""
        start = self.starts[number]
        return range(bisect_right(self.starts, start - self.window), bisect_left(self.starts, start + self.window))


@dataclass(frozen=True)
class Layout:
    """The windows of one picture, row by row."""

    rows: Axis
    columns: Axis
    window_plan: Plan
    """Of one window."""

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def across(self) -> int:
        """Windows per row."""
        return len(self.columns.starts)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in pixels."""
        return self.rows.length, self.columns.length

    @property
    def window_size(self) -> tuple[int, int]:
        """(height, width) of every window in pixels."""
        return self.rows.window, self.columns.window

    @property
    def pixels(self) -> int:
        """Of all windows; what lies in several counts as often."""
        return len(self) * self.rows.window * self.columns.window

    def window(self, index: int) -> Box:
        """A window in pixels of the picture."""
        row, column = divmod(index, self.across)
        top, left = self.rows.starts[row], self.columns.starts[column]
        return Box(top, left, top + self.rows.window, left + self.columns.window)

    def core(self, index: int) -> Box:
        """What a window decides, in pixels of the picture."""
        row, column = divmod(index, self.across)
        rows, columns = self.rows.edges, self.columns.edges
        return Box(rows[row], columns[column], rows[row + 1], columns[column + 1])

    def around(self, index: int) -> Iterator[int]:
        """Other windows that share pixels with a window."""
        row, column = divmod(index, self.across)
        for other_row in self.rows.overlapping(row):
            for other_column in self.columns.overlapping(column):
                if (other_row, other_column) != (row, column):
                    yield other_row * self.across + other_column

    @property
    def plan(self) -> Plan:
        """Of the whole picture: its cost is that of all windows."""
        one, count = self.window_plan, len(self)
        scale = min(seen / given for seen, given in zip(one.resized, self.window_size, strict=True))
        tiles = Tiles(count, self.window_size, (self.rows.overlap, self.columns.overlap), round(scale, 6))
        return replace(one, flops=count * one.flops, baseline_flops=count * one.baseline_flops, tiles=tiles)


def lay_out(tiling: Tiling, height: int, width: int, plan: PlanPicture, tasks: Sequence[Task]) -> Layout | None:
    """Where the windows of a picture lie; None when it is to be segmented as a whole.

    Args:
        height, width: of the picture in pixels.
        plan: plans a picture that is segmented as a whole, and so a window.
        tiling: of kind `joint`: the windows of the picture, were they merged.

    Raises:
        ParameterError: a scale for a model that sees pictures as they are.
    """
    if tiling.kind == "off":
        return None
    own = _own_size(plan, tasks)
    if tiling.size:
        if own is None and tiling.scale != 1:
            raise ParameterError("tile: this model does not resize pictures, so it has no scale; leave SCALE out")
        sides, shared = (tiling.window, tiling.window), [tiling.shared, tiling.shared]
    else:
        whole = plan(height, width, tasks)
        sides = _own_windows(own, whole.training_side)
        if tiling.kind == "auto" and _shrunk(height, width, whole, own, sides) < SHRUNK:
            return None
        shared = [_up_to_multiple(side, 5, 32) for side in sides]
    rows, columns = (_axis(length, side, least) for length, side, least in zip((height, width), sides, shared, strict=True))
    return Layout(rows, columns, plan(rows.window, columns.window, tasks))


def _own_size(plan: PlanPicture, tasks: Sequence[Task]) -> tuple[int, int] | None:
    """(height, width) at which a model sees a large square picture; None: as large as it is."""
    first, second = (plan(side, side, tasks).resized for side in _LARGE)
    return first if first == second else None


def _own_windows(own: tuple[int, int] | None, training_side: int | None) -> tuple[int, int]:
    """(height, width) of windows in pixels that show objects as large as the model was trained on them.

    Args: own: at which the model sees a square picture; None: as large as it is.
    """
    if own is None:
        return KEPT_SIZE, KEPT_SIZE
    if training_side is None:
        return own
    height, width = (round(training_side * side / min(own)) for side in own)
    return height, width


def _shrunk(height: int, width: int, whole: Plan, own: tuple[int, int] | None, window: tuple[int, int]) -> float:
    """How many times smaller, per side, the network sees the picture as a whole than a window (height, width) of it."""
    if own is None:
        # It sees none too small, but has no room for the largest.
        return max(height, width) / KEPT_SIZE
    return math.sqrt(height * width / math.prod(whole.resized) * math.prod(own) / math.prod(window))


def _axis(length: int, side: int, overlap: int) -> Axis:
    """As few windows as cover the axis with at least this overlap, evenly spread."""
    if length <= side:
        return Axis(length, length, (0,))
    count = max(2, -(-(length - overlap) // (side - overlap)))
    return Axis(length, side, tuple(round(i * (length - side) / (count - 1)) for i in range(count)))


def _up_to_multiple(side: int, part: int, divisor: int) -> int:
    """A part of a side, rounded up to a multiple that leaves windows overlapping by less than half."""
    return min(-(-side // part // divisor) * divisor, side // 2)
