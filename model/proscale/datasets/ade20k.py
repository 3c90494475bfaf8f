"""ADE20K's scene parsing challenge: `images/SPLIT/*.jpg`, `annotations/SPLIT/*.png`, `annotations_instance/SPLIT/*.png`.

In annotations 0 is void and class k is written as k + 1. In annotations_instance the first channel is the class, counted from 1 over the
100 classes with objects, and the second the object's number in the picture; 0 is no object. With both, a picture has a panoptic map as the
published evaluation makes it: stuff of the semantic map, objects on top of it, void where a class with objects has none. A piece of stuff
is as large as in the semantic map, also where objects cover it.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proscale.datasets.annotation import VOID, AnnotatedPicture, Dataset, Instance, PanopticMap, PanopticSegment, instances_of
from proscale.datasets.png_maps import read_map, read_parts
from proscale.datasets.semantic_folder import pictures_by_stem
from proscale.errors import DataError
from proscale.labels import label_table

CATEGORIES = label_table("ade20k").categories
WITH_OBJECTS = label_table("ade20k_instance").categories
LONG = {"val": "validation", "train": "training"}
SEMANTIC, OBJECTS = "annotations", "annotations_instance"
FIRST_OBJECT = 1000
"""In panoptic maps a piece of stuff is its class's id + 1, an object this plus its number."""


def recognises(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return any((root / "images" / name).is_dir() and _annotations(root, name) for name in LONG.values())


def splits(root: Path) -> Sequence[str]:
    """Splits that are there, by their short names."""
    return [short for short, name in LONG.items() if _annotations(root, name)]


def _annotations(root: Path, name: str) -> list[Path]:
    return [folder for folder in (root / SEMANTIC / name, root / OBJECTS / name) if folder.is_dir()]


def open_ade20k(root: Path, split: str) -> Dataset:
    """Semantic maps, objects and panoptic maps of a split, as far as the folders are there.

    Raises:
        DataError: no maps; a picture of one is missing; or one of the two folders lacks maps.
    """
    name = LONG.get(split, split)
    folders = _annotations(root, name)
    stems = [{path.stem for path in folder.glob("*.png")} for folder in folders]
    everything = sorted(set().union(*stems))
    if not everything:
        raise DataError(f"no PNG in {' or '.join(map(str, folders)) or root / SEMANTIC / name}")
    for folder, there in zip(folders, stems, strict=True):
        if lacking := [stem for stem in everything if stem not in there]:
            raise DataError(
                f"{folder} has no {lacking[0]}.png and {len(lacking) - 1} more, which {' and '.join(map(str, folders))} should share"
            )
    by_stem = pictures_by_stem(root / "images" / name)
    if missing := [stem for stem in everything if stem not in by_stem]:
        raise DataError(f"{root / 'images' / name} has no picture for {missing[0]}.png and {len(missing) - 1} more maps")
    kinds = {folder.parent.name for folder in folders}
    pictures = []
    for stem in everything:
        semantic, objects = root / SEMANTIC / name / f"{stem}.png", root / OBJECTS / name / f"{stem}.png"
        pictures.append(
            AnnotatedPicture(
                stem,
                stem,
                by_stem[stem],
                None,
                partial(read_panoptic, semantic, objects) if len(kinds) == 2 else None,
                partial(_instances, objects) if OBJECTS in kinds else None,
                partial(read_reduced, semantic, len(CATEGORIES)) if SEMANTIC in kinds else None,
            )
        )
    layout = "ADE20K scene parsing" if SEMANTIC in kinds else "ADE20K instances"
    return Dataset(layout, root, split, CATEGORIES if SEMANTIC in kinds else WITH_OBJECTS, pictures, map_offset=1)


def read_reduced(path: Path, classes: int) -> NDArray[np.int32]:
    """A map of class numbers from 1: reduced by one, 0 becomes VOID, and so does 255.

    Raises:
        DataError: a number above the classes.
    """
    values = read_map(path)
    values[values == 255] = 0
    if values.max(initial=0) > classes:
        raise DataError(f"{path} holds {values.max()}, but there are {classes} classes, written as 1 to {classes}")
    return np.where(values == 0, VOID, values - 1).astype(np.int32)


def read_objects(path: Path) -> PanopticMap:
    """The objects of a picture alone; everything else is void.

    Raises:
        DataError: an object of two classes, or a class that is none of the 100.
    """
    parts = read_parts(path)
    classes, numbers = parts[..., 0], parts[..., 1]
    segments = []
    for number in np.unique(numbers[numbers > 0]).tolist():
        own = np.unique(classes[numbers == number]).tolist()
        if len(own) > 1:
            raise DataError(f"{path} gives the object {number} the classes {own[0]} and {own[1]}; every object has one")
        if not 1 <= own[0] <= len(WITH_OBJECTS):
            raise DataError(f"{path} gives the object {number} the class {own[0]}; there are {len(WITH_OBJECTS)}, written as 1 to 100")
        segments.append(PanopticSegment(FIRST_OBJECT + number, WITH_OBJECTS[own[0] - 1].id))
    ids = np.where(numbers > 0, FIRST_OBJECT + numbers, 0).astype(np.int32)
    return PanopticMap(ids, tuple(segments))


def read_panoptic(semantic: Path, objects: Path) -> PanopticMap:
    """Stuff of the semantic map with the objects on top.

    Raises:
        DataError: one of the two is missing or malformed, or they differ in size.
    """
    classes, things = read_reduced(semantic, len(CATEGORIES)), read_objects(objects)
    if classes.shape != things.ids.shape:
        raise DataError(
            f"{semantic} is {classes.shape[1]}x{classes.shape[0]} pixels, {objects} {things.ids.shape[1]}x{things.ids.shape[0]}"
        )
    stuff = {category.id for category in CATEGORIES if not category.isthing}
    found, areas = np.unique(classes, return_counts=True)
    pieces = [
        PanopticSegment(value + 1, value, area=area) for value, area in zip(found.tolist(), areas.tolist(), strict=True) if value in stuff
    ]
    below = np.where(np.isin(classes, sorted(stuff)), classes + 1, 0)
    return PanopticMap(np.where(things.ids > 0, things.ids, below).astype(np.int32), (*pieces, *things.segments))


def _instances(path: Path) -> tuple[Instance, ...]:
    return instances_of(read_objects(path), WITH_OBJECTS)
