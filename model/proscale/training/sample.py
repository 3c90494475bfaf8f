"""One annotated picture, whatever it comes from: a data set's folder or the scene painter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.errors import DataError as DataError
from proscale.labels import Category


@dataclass(frozen=True)
class Sample:
    """A picture and its panoptic truth.

    `ids` names one segment per pixel, so truth masks never overlap and a truth with hundreds of segments costs one map.
    """

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    ids: NDArray[np.int32]
    """(H, W), 0 = void, i = segment i, whose class is `classes[i - 1]`."""
    classes: NDArray[np.int64]
    """(N,) class index of every segment."""
    crowd: NDArray[np.bool_]
    """(N,) True for segments that stand for an uncounted group: ignored in training, treated as COCO does in evaluation."""
    name: str = ""
    """File name or other origin, for messages."""


def compact(sample: Sample, min_pixels: int = 1, drop_crowds: bool = False) -> Sample:
    """Renumber segments 1..N in order and drop those that are gone, too small or (on request) crowds; their pixels become void."""
    areas = np.bincount(sample.ids.ravel(), minlength=len(sample.classes) + 1)[1:]
    keep = areas >= max(min_pixels, 1)
    if drop_crowds:
        keep &= ~sample.crowd
    renumber = np.zeros(len(sample.classes) + 1, np.int32)
    renumber[1:][keep] = np.arange(1, keep.sum() + 1)
    return Sample(sample.image, renumber[sample.ids], sample.classes[keep], sample.crowd[keep], sample.name)


def merge_label_spaces(*spaces: Sequence[Category]) -> tuple[Category, ...]:
    """One label space for several sources: the first as it stands, then names that it lacks, under ids that are free.

    Raises:
        DataError: one source calls a name a thing, another calls it stuff; or the first has a name twice.
    """
    merged: dict[str, Category] = {}
    for place, space in enumerate(spaces):
        for category in space:
            known = merged.get(category.name)
            if known is not None and known.isthing != category.isthing:
                raise DataError(f"'{category.name}' is a thing in one data source and stuff in another; rename one of them")
            if known is not None and place == 0:
                raise DataError(f"the data has two categories named '{category.name}' (ids {known.id} and {category.id}); rename one")
            if known is None:
                free = max((c.id for c in merged.values()), default=0) + 1
                merged[category.name] = category if place == 0 else Category(free, category.name, category.isthing)
    return tuple(merged.values())


def class_index(categories: Sequence[Category]) -> dict[str, int]:
    """Name -> class index of a label space."""
    return {category.name: i for i, category in enumerate(categories)}
