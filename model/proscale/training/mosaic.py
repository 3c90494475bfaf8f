"""Views that are put together of parts of four others (mosaic, arXiv 2004.10934, section 3.3).

A window of a large picture shows things that its border cuts, beside others of another scale and stain. So does a mosaic.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from proscale.training.sample import Sample, compact


def mosaic(
    views: Sequence[tuple[Sample, tuple[int, int]]], size: int, rng: np.random.Generator, stuff: frozenset[int], min_pixels: int
) -> Sample:
    """Four views around a random point of the middle half; each gives a random part as large as its place.

    Args:
        views: four of (view, its height and width that hold picture), as `random_view` gives them.
        size: side of the square, in pixels of the network's input.
        stuff: class indices that are one segment per picture.
        min_pixels: segments with fewer pixels become void.

    Returns:
        (size, size); its name has those of all four.
    """
    y, x = (int(rng.integers(size // 4, size - size // 4 + 1)) for _ in range(2))
    places = [(slice(*rows), slice(*columns)) for rows in ((0, y), (y, size)) for columns in ((0, x), (x, size))]
    image, ids = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.int32)
    segments = 0
    for (view, held), place in zip(views, places, strict=True):
        wanted = [side.stop - side.start for side in place]
        top, left = (int(rng.integers(0, max(have - want, 0) + 1)) for have, want in zip(held, wanted, strict=True))
        part = slice(top, top + wanted[0]), slice(left, left + wanted[1])
        image[place], ids[place] = view.image[part], np.where(view.ids[part] > 0, view.ids[part] + segments, 0)
        segments += len(view.classes)
    classes = np.concatenate([view.classes for view, _ in views])
    crowd = np.concatenate([view.crowd for view, _ in views])
    names = ", ".join(view.name for view, _ in views)
    return compact(Sample(image, _united(ids, classes, stuff), classes, crowd, names), min_pixels, drop_crowds=True)


def _united(ids: NDArray[np.int32], classes: NDArray[np.int64], stuff: frozenset[int]) -> NDArray[np.int32]:
    """`ids` with every class of stuff under the first of its ids."""
    renumber = np.arange(len(classes) + 1, dtype=np.int32)
    for each in stuff:
        same = np.flatnonzero(classes == each) + 1
        renumber[same] = same[:1]
    return renumber[ids]
