"""Mapillary Vistas: `training/`, `validation/` with images, labels, instances, panoptic; classes in `config.json`. Versions 1.2 and 2.0.

In labels a pixel is the class's place in `config.json`. In instances it is place x 256 + number. In the panoptic JSON ids count
from 1. Classes that the configuration does not evaluate ("Unlabeled") are void.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.datasets.annotation import VOID, AnnotatedPicture, Dataset, Instance, PanopticMap, PanopticSegment, instances_of
from proscale.datasets.coco_panoptic import open_coco_panoptic
from proscale.datasets.json_fields import field_of, read_json
from proscale.datasets.png_maps import read_map
from proscale.datasets.semantic_folder import pictures_by_stem
from proscale.errors import DataError
from proscale.labels import Category

LONG = {"val": "validation", "train": "training"}
CONFIGS = ("config.json", "config_v1.2.json", "config_v2.0.json")
PER_CLASS = 256


def recognises(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return any((root / name / "images").is_dir() for name in LONG.values()) and any((root / name).is_file() for name in CONFIGS)


def splits(root: Path) -> Sequence[str]:
    """Splits that are there, by their short names."""
    return [short for short, name in LONG.items() if (root / name / "images").is_dir()]


def open_mapillary(root: Path, split: str) -> Dataset:
    """A split, by version 1.2 where its files are there, else 2.0: the panoptic files if they are there, else labels and instances.

    Raises:
        DataError: what was looked for is not there.
    """
    folder = root / LONG.get(split, split)
    by_stem = pictures_by_stem(folder / "images")
    choices = [(folder, "config.json"), (folder / "v1.2", "config_v1.2.json"), (folder / "v2.0", "config_v2.0.json")]
    base, config = next(((base, root / name) for base, name in choices if (root / name).is_file() and _annotated(base)), (None, None))
    if base is None or config is None:
        wanted = ", ".join(f"{base / 'labels'} with {root / name}" for base, name in choices)
        raise DataError(f"no annotation of Mapillary Vistas for {folder / 'images'}; looked for {wanted}")
    for index in sorted((base / "panoptic").glob("panoptic_*.json")):
        values = read_json(index)
        return open_coco_panoptic(index, values, index.parent, partial(_picture, folder / "images"), split, "Mapillary Vistas panoptic")
    categories = read_categories(config)
    evaluated = tuple(category for category in categories if category is not None)
    pictures = []
    for path in sorted((base / "labels").glob("*.png")):
        if path.stem not in by_stem:
            raise DataError(f"{folder / 'images'} has no picture for {path}")
        instances = base / "instances" / path.name
        panoptic = partial(read_panoptic, instances, categories) if instances.is_file() else None
        pictures.append(
            AnnotatedPicture(
                path.stem,
                path.stem,
                by_stem[path.stem],
                None,
                panoptic,
                partial(_instances, instances, categories) if panoptic else None,
                partial(read_labels, path, categories),
            )
        )
    if not pictures:
        raise DataError(f"no PNG in {base / 'labels'}")
    return Dataset("Mapillary Vistas", root, split, evaluated, pictures, map_offset=-1)


def read_categories(config: Path) -> tuple[Category | None, ...]:
    """The classes of `config.json` by place, ids from 1 as in the panoptic files; None for those that are not evaluated."""
    values = read_json(config)
    categories: list[Category | None] = []
    for i, row in enumerate(field_of(values, "labels", list, config, "the file")):
        where = f"labels[{i}]"
        name = field_of(row, "readable", str, config, where)
        evaluated, isthing = (field_of(row, field, bool, config, where) for field in ("evaluate", "instances"))
        categories.append(Category(i + 1, name, isthing) if evaluated else None)
    return tuple(categories)


def read_panoptic(path: Path, categories: Sequence[Category | None]) -> PanopticMap:
    """An instances PNG as a panoptic map; stuff of one class is one segment, whatever its number."""
    values = read_map(path)
    place = values // PER_CLASS
    _check_places(path, place, categories)
    stuff = np.isin(place, [i for i, category in enumerate(categories) if category is not None and not category.isthing])
    ids = np.where(stuff, place * PER_CLASS, values) + 1
    void = np.isin(place, [i for i, category in enumerate(categories) if category is None])
    ids[void] = 0
    found = [value for value in np.unique(ids).tolist() if value]
    owners = {value: categories[(value - 1) // PER_CLASS] for value in found}
    segments = tuple(PanopticSegment(value, owner.id) for value, owner in owners.items() if owner is not None)
    return PanopticMap(ids.astype(np.int32), segments)


def read_labels(path: Path, categories: Sequence[Category | None]) -> NDArray[np.int32]:
    """A labels PNG as category ids."""
    values = read_map(path)
    _check_places(path, values, categories)
    table = np.array([VOID if category is None else category.id for category in categories], np.int32)
    mapped: NDArray[np.int32] = table[values]
    return mapped


def _check_places(path: Path, places: NDArray[Any], categories: Sequence[Category | None]) -> None:
    if places.max(initial=0) >= len(categories):
        raise DataError(f"{path} holds the class {places.max()}, but the configuration has {len(categories)}; is it of the same version?")


def _annotated(base: Path) -> bool:
    return (base / "labels").is_dir() or (base / "panoptic").is_dir()


def _picture(folder: Path, name: str) -> Path:
    return folder / name


def _instances(path: Path, categories: Sequence[Category | None]) -> tuple[Instance, ...]:
    return instances_of(read_panoptic(path, categories), [category for category in categories if category is not None])
