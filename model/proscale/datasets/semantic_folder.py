"""Pictures in one folder, class maps as PNG of the same names in another, and a file that names the classes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proscale.datasets.annotation import VOID, AnnotatedPicture, Dataset
from proscale.datasets.png_maps import read_map
from proscale.errors import DataError
from proscale.labels import Category, read_categories_file

FOLDERS = [
    ("images", "annotations"),
    ("images", "masks"),
    ("images", "labels"),
    ("img_dir", "ann_dir"),
    ("JPEGImages", "SegmentationClass"),
    ("imgs", "masks"),
]
"""Names of the two folders, as they are found in the wild; SPLIT may lie below them or above."""
CLASS_FILES = ("labels.json", "classes.json", "id2label.json", "categories.json", "classes.txt", "labels.txt", "class_names.txt")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jfif"}
MAP_ENDINGS = ("_labelTrainIds", "_gt", "_mask", "_seg", "_label", "_labels")
IGNORED = 255


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The picture files of a folder by their names without ending.

    Raises:
        DataError: no folder, or two files of one name.
    """
    if not folder.is_dir():
        raise DataError(f"the folder {folder} with pictures is missing")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"{path} and {found[path.stem].name} have one name; which of them the map belongs to cannot be told")
            found[path.stem] = path
    return found


def find_folders(root: Path, split: str | None) -> tuple[Path, Path] | None:
    """The folders of pictures and maps."""
    for pictures, maps in FOLDERS:
        pairs = [(root / pictures, root / maps)]
        if split is not None:
            pairs = [(root / pictures / split, root / maps / split), (root / split / pictures, root / split / maps), *pairs]
        for pair in pairs:
            if all(folder.is_dir() for folder in pair) and any(pair[1].glob("*.png")):
                return pair
    return None


def splits(root: Path) -> Sequence[str]:
    """Splits that are there."""
    below = {path.name for _, maps in FOLDERS for path in (root / maps).glob("*") if path.is_dir()}
    above = {path.parent.name for _, maps in FOLDERS for path in root.glob(f"*/{maps}") if path.is_dir()}
    return sorted(below | above)


def find_categories(root: Path, labels: Path | None) -> tuple[Category, ...]:
    """The classes: of the file given, else of the first of CLASS_FILES that is there.

    Raises:
        DataError: there is none.
    """
    path = labels or next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if path is None:
        raise DataError(
            f"nothing says what the class numbers in {root} mean; looked for {', '.join(CLASS_FILES)}. "
            "Give a file with one name per line (class 0 first), or a labels.json of {id, name, isthing}."
        )
    return read_categories_file(path)


def open_semantic_folder(
    root: Path, split: str, folders: tuple[Path, Path], labels: Path | None, reduce_labels: bool, ignore_index: int
) -> Dataset:
    """Class maps of a split.

    Args:
        reduce_labels: maps hold 0 for void and a category's place + 1 otherwise, as ADE20K's do; else they hold category ids.
        ignore_index: number of pixels that are left out.

    Raises:
        DataError: maps without picture, or nothing names the classes.
    """
    categories = find_categories(root, labels)
    by_stem = pictures_by_stem(folders[0])
    pictures = []
    for path in sorted(folders[1].glob("*.png")):
        stem = next((path.stem.removesuffix(end) for end in ("", *MAP_ENDINGS) if path.stem.removesuffix(end) in by_stem), None)
        if stem is None:
            raise DataError(f"{folders[0]} has no picture for the map {path}")
        read = partial(read_classes, path, categories, reduce_labels, ignore_index)
        pictures.append(AnnotatedPicture(stem, stem, by_stem[stem], None, read_semantic=read))
    rest = len(by_stem) - len(pictures)
    notes = (f"{rest} pictures without a map are left out",) if rest else ()
    return Dataset("semantic PNGs", root, split, categories, pictures, notes, int(reduce_labels and categories[0].id == 0))


def read_classes(path: Path, categories: Sequence[Category], reduce_labels: bool, ignore_index: int) -> NDArray[np.int32]:
    """A map of category ids, VOID where it is to be left out.

    Raises:
        DataError: it holds a number that is no category's.
    """
    values = read_map(path)
    ignored = values == ignore_index
    if reduce_labels:
        ignored |= values == 0
        table = {i + 1: category.id for i, category in enumerate(categories)}
    else:
        table = {category.id: category.id for category in categories}
    found, inverse = np.unique(np.where(ignored, VOID, values), return_inverse=True)
    if unknown := [value for value in found.tolist() if value != VOID and value not in table]:
        known = sorted(table)
        raise DataError(
            f"{path} holds {unknown[0]}, which is no class: they are {known[0]} to {known[-1]}, and {ignore_index} is left out. "
            "Name another ignored number, ask for reduced labels, or complete the list of classes."
        )
    mapped = np.array([VOID if value == VOID else table[value] for value in found.tolist()], np.int32)
    result: NDArray[np.int32] = mapped[inverse].reshape(values.shape)
    return result
