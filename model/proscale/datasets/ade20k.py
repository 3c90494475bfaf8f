"""ADE20K's scene parsing challenge: `images/SPLIT/*.jpg`, `annotations/SPLIT/*.png`; 0 is void and class k is written as k + 1."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proscale.datasets.annotation import VOID, AnnotatedPicture, Dataset
from proscale.datasets.png_maps import read_map
from proscale.datasets.semantic_folder import pictures_by_stem
from proscale.errors import DataError
from proscale.labels import label_table

CATEGORIES = label_table("ade20k").categories
LONG = {"val": "validation", "train": "training"}


def recognises(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return any((root / "images" / name).is_dir() and (root / "annotations" / name).is_dir() for name in LONG.values())


def splits(root: Path) -> Sequence[str]:
    """Splits that are there, by their short names."""
    return [short for short, name in LONG.items() if (root / "annotations" / name).is_dir()]


def open_ade20k(root: Path, split: str) -> Dataset:
    """Semantic maps of a split.

    Raises:
        DataError: no maps, or a picture of one is missing.
    """
    name = LONG.get(split, split)
    maps = sorted((root / "annotations" / name).glob("*.png"))
    if not maps:
        raise DataError(f"no PNG in {root / 'annotations' / name}")
    by_stem = pictures_by_stem(root / "images" / name)
    if missing := [path.stem for path in maps if path.stem not in by_stem]:
        raise DataError(f"{root / 'images' / name} has no picture for {missing[0]}.png and {len(missing) - 1} more maps")
    pictures = [
        AnnotatedPicture(path.stem, path.stem, by_stem[path.stem], None, read_semantic=partial(read_reduced, path, len(CATEGORIES)))
        for path in maps
    ]
    return Dataset("ADE20K scene parsing", root, split, CATEGORIES, pictures, map_offset=1)


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
