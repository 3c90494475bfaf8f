"""The definition of `merge.py` on dense masks, pixel by pixel: slow, and as large as the picture times its segments. For tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import Segment
from proscale.rle import decode
from proscale.tiles.layout import Layout
from proscale.tiles.parts import AGREE, COVERED, ENDLESS

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class DenseSegment:
    """A segment of the picture."""

    category_id: int
    score: float
    mask: Masks
    """(H, W)."""


@dataclass(eq=False)
class _Dense:
    """One segment of one window."""

    window: int
    segment: Segment
    mask: Masks
    """(H, W), on the picture."""
    thing: bool
    confirmed: bool = False
    beaten: bool = False
    united: bool = False


def owners(layout: Layout) -> NDArray[np.int64]:
    """For every pixel (H, W) the window in which it lies deepest; of windows that are equal in this, the first."""
    height, width = layout.size
    y, x = (axis.astype(np.float64) for axis in np.mgrid[:height, :width])
    far_away = np.full(layout.size, 2.0 * max(layout.size))
    depths = []
    for box in map(layout.window, range(len(layout))):
        vertical = np.minimum(y - box.top + 0.5 if box.top else far_away, box.bottom - y - 0.5 if box.bottom < height else far_away)
        horizontal = np.minimum(x - box.left + 0.5 if box.left else far_away, box.right - x - 0.5 if box.right < width else far_away)
        near, far = np.minimum(vertical, horizontal), np.maximum(vertical, horizontal)
        # The nearest border decides, and where that is equally near, the other one.
        depths.append(np.where(near < 0, -1.0, near * 4 * max(layout.size) + far))
    deepest: NDArray[np.int64] = np.argmax(depths, axis=0)
    return deepest


def merge_dense(task: Task, layout: Layout, results: Sequence[Sequence[Segment]]) -> list[DenseSegment]:
    """What `Merger` finds, in its order. Args: results: the segments of every window; masks in its pixels."""
    owner = owners(layout)
    parts = [
        _Dense(window, segment, _placed(layout, window, segment), task != "semantic" and segment.isthing)
        for window, segments in enumerate(results)
        for segment in segments
    ]
    parts = [part for part in parts if part.mask.any()]
    group = _groups(layout, parts)
    given = _given(task, layout, parts, owner)
    merged = []
    for root in sorted(set(group)):
        mine = [mask for i, mask in enumerate(given) if group[i] == root]
        scores = [parts[i].segment.score for i in range(len(parts)) if group[i] == root]
        areas = [int(mask.sum()) for mask in mine]
        if sum(areas):
            score = sum(area * score for area, score in zip(areas, scores, strict=True)) / sum(areas)
            merged.append(DenseSegment(parts[root].segment.category_id, score, np.logical_or.reduce(mine)))
    return merged


def _groups(layout: Layout, parts: Sequence[_Dense]) -> list[int]:
    """For every part the first one that it is one with; marks what other windows confirm, beat and complete."""
    first_of_class: dict[int, int] = {}
    group = [i if part.thing else first_of_class.setdefault(part.segment.category_id, i) for i, part in enumerate(parts)]
    for later in range(len(layout)):
        for earlier in range(later):
            for i, j in _same(layout, parts, earlier, later):
                parts[i].confirmed = parts[j].confirmed = True
                # Of equal depths the earlier window's.
                better, worse = (i, j) if _depth(layout, parts[i]) > _depth(layout, parts[j]) else (j, i)
                if _depth(layout, parts[better]) and _sees_all(layout, parts[better].window, parts[worse].mask):
                    parts[worse].beaten = True
                else:
                    parts[i].united = parts[j].united = True
                    both = (group[i], group[j])
                    group = [min(both) if each in both else each for each in group]
    return group


def _given(task: Task, layout: Layout, parts: Sequence[_Dense], owner: NDArray[np.int64]) -> list[Masks]:
    """For every part the pixels that it gives to the picture."""
    kept = [_kept(layout, part) for part in parts]
    whole = [kept[i] and not part.united and _depth(layout, part) > 0 for i, part in enumerate(parts)]
    given = [part.mask & (owner == part.window) & kept[i] for i, part in enumerate(parts)]
    if task == "instance":
        return [part.mask if whole[i] else given[i] for i, part in enumerate(parts)]
    things = [i for i, part in enumerate(parts) if part.thing]
    if not things:
        return given
    inside = np.logical_or.reduce([given[i] for i in things])
    claimed = inside.copy()
    for i in things:  # by the order of windows
        if whole[i]:
            more = parts[i].mask & ~claimed
            given[i] |= more
            claimed |= more
    for i, part in enumerate(parts):
        if not part.thing:
            given[i] &= ~(claimed & ~inside)
    left = np.logical_or.reduce([parts[i].mask & (owner == parts[i].window) for i in things]) & ~claimed
    for i, part in enumerate(parts):
        if not part.thing:
            more = part.mask & (owner != part.window) & left
            given[i] |= more
            left &= ~more
    return given


def _kept(layout: Layout, part: _Dense) -> bool:
    if not part.thing or part.confirmed:
        return not part.beaten
    others = [other for other in range(len(layout)) if other != part.window and _sees_all(layout, other, part.mask)]
    depth = _depth(layout, part)
    return not any(_cuts(layout, part.window, other, part.mask) or _depth_in(layout, other, part.mask) > depth for other in others)


def _placed(layout: Layout, window: int, segment: Segment) -> Masks:
    mask, box = np.zeros(layout.size, bool), layout.window(window)
    mask[box.top : box.bottom, box.left : box.right] = decode(segment.segmentation)
    return mask


def _same(layout: Layout, parts: Sequence[_Dense], earlier: int, later: int) -> Iterator[tuple[int, int]]:
    """Pairs of things of two windows that are the same, the later window's first."""
    strip = np.zeros(layout.size, bool)
    box = layout.window(earlier).shared(layout.window(later))
    strip[box.top : box.bottom, box.left : box.right] = True
    things = [i for i, part in enumerate(parts) if part.thing]
    shares = {}
    for i in (i for i in things if parts[i].window == later):
        same_class = [j for j in things if parts[j].segment.category_id == parts[i].segment.category_id]
        for j in (j for j in same_class if parts[j].window == earlier):
            ours, theirs = parts[i].mask & strip, parts[j].mask & strip
            shares[i, j] = int((ours & theirs).sum()), int(ours.sum()), int(theirs.sum())
    taken: set[int] = set()
    for i, j in sorted(shares, key=lambda pair: (-_iou(*shares[pair]), pair)):
        if _iou(*shares[i, j]) > AGREE and not taken & {i, j}:
            taken |= {i, j}
            yield i, j
    for (i, j), (both, ours_area, theirs_area) in shares.items():
        ours, theirs = (parts[each].mask for each in (i, j))
        ours_cut = i not in taken and both > COVERED * ours_area and _cuts(layout, later, earlier, ours & strip)
        theirs_cut = j not in taken and both > COVERED * theirs_area and _cuts(layout, earlier, later, theirs & strip)
        if (ours_cut and _is_fragment(layout, later, ours)) or (theirs_cut and _is_fragment(layout, earlier, theirs)):
            yield i, j


def _iou(both: int, one: int, other: int) -> float:
    return both / max(1, one + other - both)


def _sees_all(layout: Layout, window: int, mask: Masks) -> bool:
    outside, box = mask.copy(), layout.window(window)
    outside[box.top : box.bottom, box.left : box.right] = False
    return not outside.any()


def _depth(layout: Layout, part: _Dense) -> int:
    return _depth_in(layout, part.window, part.mask)


def _depth_in(layout: Layout, window: int, mask: Masks) -> int:
    """Pixels between a mask and the nearest of a window's borders behind which the picture goes on."""
    (height, width), box = layout.size, layout.window(window)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return min(
        int(rows[0]) - box.top if box.top else ENDLESS,
        int(columns[0]) - box.left if box.left else ENDLESS,
        box.bottom - 1 - int(rows[-1]) if box.bottom < height else ENDLESS,
        box.right - 1 - int(columns[-1]) if box.right < width else ENDLESS,
    )


def _cuts(layout: Layout, window: int, other: int, seen: Masks) -> bool:
    """Whether a window's border cuts a thing where another window sees further."""
    box, further = layout.window(window), layout.window(other)
    return bool(
        (box.top > further.top and seen[box.top].any())
        or (box.left > further.left and seen[:, box.left].any())
        or (box.bottom < further.bottom and seen[box.bottom - 1].any())
        or (box.right < further.right and seen[:, box.right - 1].any())
    )


def _is_fragment(layout: Layout, window: int, seen: Masks) -> bool:
    """Whether a window's border cuts a thing, while another window sees all of it that this one does, and further."""
    others = (other for other in range(len(layout)) if other != window)
    return any(_sees_all(layout, other, seen) and _cuts(layout, window, other, seen) for other in others)
