"""A network that is never wrong: it cuts its answers out of the known truth. What is wrong after merging is the merge's fault."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from proscale.config import Task
from proscale.results import Plan, Segment
from proscale.rle import encode, encode_id_map, measure
from proscale.tiles import Layout, Merger, Tiling, lay_out
from proscale.tiles.merge import MergedSegment

THING, OTHER_THING, STUFF, OTHER_STUFF = 1, 2, 10, 11
Ids = NDArray[np.int32]
"""(H, W): category * 10000 + number; 0: nothing."""


def category_of(number: int) -> int:
    """The category of an id."""
    return number // 10_000


def blobs(seed: int, height: int, width: int, count: int, radius: tuple[float, float] = (3, 12)) -> Ids:
    """Two kinds of stuff, and round things of two kinds on top, every one of a single piece."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ids = np.where(y + 9 * np.sin(x / 11) < height / 2, STUFF * 10_000, OTHER_STUFF * 10_000).astype(np.int32)
    for number in range(1, count + 1):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(*radius)
        stretch = rng.uniform(0.5, 2)
        ids[((y - cy) * stretch) ** 2 + ((x - cx) / stretch) ** 2 < r * r] = int(rng.choice([THING, OTHER_THING])) * 10_000 + number
    for number in np.unique(ids[ids < STUFF * 10_000]).tolist():
        pieces, many = ndimage.label(ids == number)
        if many > 1:  # hidden in the middle: the largest piece stays
            largest = np.argmax(np.bincount(pieces.ravel())[1:]) + 1
            ids[(pieces > 0) & (pieces != largest)] = 0
    return ids


def segments_of(ids: Ids, score: float = 0.9, connected: bool = False) -> list[Segment]:
    """What a network that is never wrong says of a picture. Args: connected: pieces that do not touch are things of their own."""
    found: list[Segment] = []
    for number in np.unique(ids[ids > 0]).tolist():
        category = category_of(number)
        thing = category in (THING, OTHER_THING)
        pieces, many = ndimage.label(ids == number) if connected and thing else ((ids == number).astype(np.int32), 1)
        for mask in encode_id_map(pieces, range(1, many + 1)).values():
            area, bbox = measure(mask)
            found.append(Segment(len(found) + 1, category, f"class {category}", thing, score, bbox, area, mask))
    return found


def segment_of(mask: NDArray[np.bool_], category: int = THING, score: float = 0.9) -> Segment:
    """One segment, a thing or stuff by its category."""
    rle = encode(mask)
    area, bbox = measure(rle)
    return Segment(1, category, f"class {category}", category in (THING, OTHER_THING), score, bbox, area, rle)


def laid_out(ids: Ids, side: int, overlap: int) -> Layout:
    """Windows over a picture."""
    height, width = ids.shape
    made = lay_out(Tiling("fixed", side, overlap), height, width, lambda h, w, tasks: Plan((100, 100), (128, 128), 10, 20), ("panoptic",))
    assert made is not None
    return made


def windows_of(ids: Ids, layout: Layout) -> Iterator[Ids]:
    """The truth in every window."""
    for box in map(layout.window, range(len(layout))):
        yield ids[box.top : box.bottom, box.left : box.right]


def remove_what_windows_see_in_pieces(ids: Ids, layout: Layout) -> None:
    """Take out things that a window sees in several pieces because they hang together outside of it."""
    for part in windows_of(ids, layout):
        for number in np.unique(part[(part > 0) & (part < STUFF * 10_000)]).tolist():
            if ndimage.label(part == number)[1] > 1:
                ids[ids == number] = 0


def merge(task: Task, layout: Layout, results: list[list[Segment]]) -> list[MergedSegment]:
    """The fast way."""
    merger = Merger(task, layout)
    for segments in results:
        merger.add(segments)
    return list(merger.finish())
