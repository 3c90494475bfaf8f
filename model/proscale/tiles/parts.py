"""Things of single windows: how deep they lie there, and which of them are the same thing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proscale.results import Segment
from proscale.tiles.layout import Box
from proscale.tiles.runs import Runs, area, bounds, common, cut

AGREE = 0.5
"""IoU, inside the strip that two windows see, above which two things are one."""
COVERED = 0.8
"""Share of a fragment, inside the strip, that the other window's thing must cover to be one with it."""
ENDLESS = 1 << 31
"""Depth of a thing in a window that sees the whole picture."""


@dataclass(eq=False)
class Part:
    """One thing of one window."""

    segment: Segment
    window: int
    runs: Runs
    """All that the window saw."""
    box: Box
    """Around them."""
    node: int
    depth: int
    """Pixels between its box and the nearest of the window's borders behind which the picture goes on; 0: a border cuts it."""
    fragment: bool
    """A border cuts it, and another window sees all of it, and further."""
    doubtful: bool
    """Another window sees its place deeper."""
    confirmed: bool = False
    """A thing of another window is the same."""
    beaten: bool = False
    """That one is whole, and lies deeper: it stands for both."""
    united: bool = False
    """That one is no more whole than this: each stands for the pixels that its window decides."""

    @property
    def kept(self) -> bool:
        """Whether any of it stays."""
        return not self.beaten and (self.confirmed or not (self.fragment or self.doubtful))

    @property
    def whole(self) -> bool:
        """Whether its window alone decides what belongs to it."""
        return self.kept and not self.united and self.depth > 0


@dataclass(frozen=True)
class _Inside:
    """What of a part lies in a strip."""

    part: Part
    runs: Runs
    area: int
    box: Box


def depth_in(window: Box, box: Box, size: tuple[int, int]) -> int:
    """Pixels between a box and the nearest of the window's borders behind which a picture of `size` (height, width) goes on."""
    return min(
        box.top - window.top if window.top else ENDLESS,
        box.left - window.left if window.left else ENDLESS,
        window.bottom - box.bottom if window.bottom < size[0] else ENDLESS,
        window.right - box.right if window.right < size[1] else ENDLESS,
    )


def cuts(window: Box, other: Box, box: Box) -> bool:
    """Whether a window's border cuts what it saw in `box`, where the other window sees further."""
    return (
        box.top == window.top > other.top
        or box.left == window.left > other.left
        or box.bottom == window.bottom < other.bottom
        or box.right == window.right < other.right
    )


def same(parts: Sequence[Part], others: Sequence[Part], window: Box, other_window: Box) -> Iterator[tuple[Part, Part]]:
    """Pairs of things that two windows both see. Args: parts: of `window`; others: of `other_window`.

    First those whose parts inside the shared strip agree, the best pairs first, each with at most one; then fragments that agree with
    nothing, and what covers them.
    """
    strip = window.shared(other_window)
    ours, theirs = _inside(parts, strip), _inside(others, strip)
    pairs = []
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            if one.part.segment.category_id == other.part.segment.category_id and one.box.meets(other.box):
                pairs.append((common(one.runs, other.runs), i, j))
    free_ours, free_theirs = set(range(len(ours))), set(range(len(theirs)))
    alike = ((-shared / (ours[i].area + theirs[j].area - shared), i, j) for shared, i, j in pairs)
    for disagreement, i, j in sorted(alike):
        if -disagreement > AGREE and i in free_ours and j in free_theirs:
            free_ours.discard(i)
            free_theirs.discard(j)
            yield ours[i].part, theirs[j].part
    for shared, i, j in pairs:
        if (i in free_ours and shared > COVERED * ours[i].area and _is_cut(ours[i], window, other_window)) or (
            j in free_theirs and shared > COVERED * theirs[j].area and _is_cut(theirs[j], other_window, window)
        ):
            yield ours[i].part, theirs[j].part


def _is_cut(inside: _Inside, window: Box, other: Box) -> bool:
    return inside.part.fragment and cuts(window, other, inside.box)


def _inside(parts: Sequence[Part], strip: Box) -> list[_Inside]:
    near = ((part, cut(part.runs, strip)) for part in parts if part.box.meets(strip))
    return [_Inside(part, runs, area(runs), bounds(runs)) for part, runs in near if runs.shape[1]]
