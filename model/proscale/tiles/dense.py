"""The definition of `merge.py` on dense masks, pixel by pixel: slow, and as large as the picture times its segments. For tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import Segment
from proscale.rle import decode
from proscale.tiles.layout import Layout
from proscale.tiles.merge import AGREE, COVERED

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class DenseSegment:
    """A segment of the picture."""

    category_id: int
    score: float
    mask: Masks
    """(H, W)."""


Part = tuple[int, Segment, Masks]
"""Window, segment, and its mask (H, W) on the picture."""


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
    parts = [(window, segment, _placed(layout, window, segment)) for window, segments in enumerate(results) for segment in segments]
    parts = [part for part in parts if part[2].any()]
    single = [task == "semantic" or not segment.isthing for _, segment, _ in parts]
    first_of_class: dict[int, int] = {}
    group = [first_of_class.setdefault(part[1].category_id, i) if single[i] else i for i, part in enumerate(parts)]
    confirmed = {i for i, each in enumerate(single) if each}
    things = [i for i, each in enumerate(single) if not each]
    for later in range(len(layout)):
        for earlier in range(later):
            for i, j in _agreeing(layout, parts, things, earlier, later):
                confirmed |= {i, j}
                both = (group[i], group[j])
                group = [min(both) if each in both else each for each in group]
    merged = []
    for root in sorted(set(group)):
        mask, pixels, score = np.zeros(layout.size, bool), 0, 0.0
        for i, (window, segment, seen) in enumerate(parts):
            if group[i] == root and (i in confirmed or not _is_fragment(layout, window, seen)):
                kept = seen & (owner == window)
                mask |= kept
                pixels += int(kept.sum())
                score += float(kept.sum()) * segment.score
        if pixels:
            merged.append(DenseSegment(parts[root][1].category_id, score / pixels, mask))
    return merged


def _placed(layout: Layout, window: int, segment: Segment) -> Masks:
    mask, box = np.zeros(layout.size, bool), layout.window(window)
    mask[box.top : box.bottom, box.left : box.right] = decode(segment.segmentation)
    return mask


def _agreeing(layout: Layout, parts: Sequence[Part], things: Sequence[int], earlier: int, later: int) -> Iterator[tuple[int, int]]:
    """Pairs of things of two windows that are one."""
    strip = np.zeros(layout.size, bool)
    box = layout.window(earlier).shared(layout.window(later))
    strip[box.top : box.bottom, box.left : box.right] = True
    shares = {}
    for i in (i for i in things if parts[i][0] == later):
        for j in (j for j in things if parts[j][0] == earlier and parts[j][1].category_id == parts[i][1].category_id):
            ours, theirs = parts[i][2] & strip, parts[j][2] & strip
            shares[i, j] = int((ours & theirs).sum()), int(ours.sum()), int(theirs.sum())
    taken: set[int] = set()
    for i, j in sorted(shares, key=lambda pair: (-_iou(*shares[pair]), pair)):
        if _iou(*shares[i, j]) > AGREE and not taken & {i, j}:
            taken |= {i, j}
            yield i, j
    for (i, j), (both, ours_area, theirs_area) in shares.items():
        ours, theirs = (parts[each][2] for each in (i, j))
        ours_cut = i not in taken and both > COVERED * ours_area and _cuts(layout, later, earlier, ours & strip)
        theirs_cut = j not in taken and both > COVERED * theirs_area and _cuts(layout, earlier, later, theirs & strip)
        if (ours_cut and _is_fragment(layout, later, ours)) or (theirs_cut and _is_fragment(layout, earlier, theirs)):
            yield i, j


def _iou(both: int, one: int, other: int) -> float:
    return both / max(1, one + other - both)


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
    for other in (each for each in range(len(layout)) if each != window):
        outside, box = seen.copy(), layout.window(other)
        outside[box.top : box.bottom, box.left : box.right] = False
        if not outside.any() and _cuts(layout, window, other, seen):
            return True
    return False
