"""A panoptic and an instances file of the same pictures as one data set."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from proscale.datasets.annotation import Dataset, Instance
from proscale.errors import DataError
from proscale.labels import match_names


def with_instances(panoptic: Dataset, instances: Dataset, index: Path) -> Dataset:
    """The panoptic data set with the objects of the instances file, whose crowds and overlaps a panoptic map cannot hold.

    Raises:
        DataError: categories contradict each other.
    """
    matched = match_names([category.name for category in instances.categories], [category.name for category in panoptic.categories])
    if unknown := [category.name for i, category in enumerate(instances.categories) if i not in matched]:
        raise DataError(
            f"{index} has the category {unknown[0]!r}, the panoptic file has not. "
            "They do not belong together; give one of the two files as the data set."
        )
    ids = {instances.categories[i].id: panoptic.categories[j].id for i, j in matched.items()}
    by_id = {picture.id: picture for picture in instances.pictures}
    missing = [picture.name for picture in panoptic.pictures if picture.id not in by_id]
    if missing:
        raise DataError(
            f"{index} does not list {missing[0]} and {len(missing) - 1} more pictures of the panoptic file; give one of the two"
        )
    pictures = []
    for picture in panoptic.pictures:
        read = by_id[picture.id].read_instances
        assert read is not None  # an instances file has them
        pictures.append(replace(picture, read_instances=partial(_renumbered, read, ids)))
    return replace(panoptic, layout="COCO panoptic and instances", pictures=pictures)


def _renumbered(read: Callable[[], tuple[Instance, ...]], ids: Mapping[int, int]) -> tuple[Instance, ...]:
    """ADE20K's instances file counts its classes otherwise than its panoptic file: the panoptic file's ids count."""
    return tuple(replace(instance, category_id=ids[instance.category_id]) for instance in read())
