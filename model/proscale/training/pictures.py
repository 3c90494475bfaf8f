"""Annotated pictures of any data set as training samples: read by the service's own reader, upright, and with exact truth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from proscale.datasets import AnnotatedPicture, Dataset, PanopticMap
from proscale.errors import DataError
from proscale.evaluation.picture_reading import read_rgb
from proscale.labels import Category
from proscale.rle import decode
from proscale.training.sample import Sample, compact

CACHED_PIXELS = 200_000_000
"""A data set of up to so many pixels is kept in memory (4 bytes + 3 per pixel)."""


class TrainingPictures:
    """The samples of one split, with classes numbered in the trained model's label space."""

    def __init__(self, dataset: Dataset, categories: Sequence[Category]) -> None:
        self.dataset = dataset
        by_name = {category.name: i for i, category in enumerate(categories)}
        self._class_of = {category.id: by_name[category.name] for category in dataset.categories}

    def __len__(self) -> int:
        return len(self.dataset.pictures)

    def __getitem__(self, index: int) -> Sample:
        """Read a picture and its truth.

        Raises:
            DataError: a file is missing or malformed, or picture and annotation differ in size; the text names the file.
        """
        picture = self.dataset.pictures[index]
        image = read_rgb(picture)
        ids, class_ids, crowd = _truth(picture, (image.shape[0], image.shape[1]))
        if ids.shape != image.shape[:2]:
            raise DataError(
                f"{picture.path} is {image.shape[0]}x{image.shape[1]} pixels upright, its annotation {ids.shape[0]}x{ids.shape[1]}. "
                "Annotate the picture as it is shown, or leave it out."
            )
        classes = np.array([self._class_of[class_id] for class_id in class_ids], np.int64)
        return compact(Sample(image, ids, classes, np.array(crowd, np.bool_), picture.name))


def _truth(picture: AnnotatedPicture, size: tuple[int, int]) -> tuple[NDArray[np.int32], list[int], list[bool]]:
    """Ids (H, W) counted from 1, and per segment its category id and whether it is a crowd; from the best annotation that there is."""
    if picture.read_panoptic is not None:
        return _from_panoptic(picture.read_panoptic())
    if picture.read_instances is not None:
        ids = np.zeros(size, np.int32)
        found = [(decode(instance.mask), instance) for instance in picture.read_instances()]
        # Large ones first, so that a small object on top of a large one is seen; crowds lie below all.
        found.sort(key=lambda pair: (not pair[1].iscrowd, -int(pair[0].sum())))
        for number, (mask, _) in enumerate(found, start=1):
            if mask.shape != ids.shape:
                raise DataError(f"{picture.path} is {size[0]}x{size[1]} pixels upright, a mask {mask.shape[0]}x{mask.shape[1]}")
            ids[mask.astype(bool)] = number
        return ids, [instance.category_id for _, instance in found], [instance.iscrowd for _, instance in found]
    if picture.read_semantic is not None:
        semantic = picture.read_semantic()
        present = [value for value in np.unique(semantic).tolist() if value >= 0]
        return (np.searchsorted(present, semantic) + 1).astype(np.int32) * (semantic >= 0), present, [False] * len(present)
    raise DataError(f"{picture.name} has no annotation")


def _from_panoptic(panoptic: PanopticMap) -> tuple[NDArray[np.int32], list[int], list[bool]]:
    segments = [segment for segment in panoptic.segments if segment.id != 0]
    number = {segment.id: i for i, segment in enumerate(segments, start=1)}
    values, inverse = np.unique(panoptic.ids, return_inverse=True)
    table = np.array([number.get(value, 0) for value in values.tolist()], np.int32)
    ids: NDArray[np.int32] = table[inverse].reshape(panoptic.ids.shape)
    return ids, [segment.category_id for segment in segments], [segment.iscrowd for segment in segments]
