"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_{labelIds,instanceIds}.png`, or its panoptic JSON.

The rules are those of cityscapesScripts: classes outside its evaluation (labels.py, `ignoreInEval`) are void; a value of 1000 and
more in instanceIds is label x 1000 + number; a smaller one of a class with objects is a group of them, a crowd.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.datasets.annotation import VOID, AnnotatedPicture, Dataset, Instance, PanopticMap, PanopticSegment, instances_of
from proscale.datasets.coco_panoptic import open_coco_panoptic
from proscale.datasets.json_fields import read_json
from proscale.datasets.png_maps import read_map
from proscale.errors import DataError
from proscale.labels import label_table

GROUP, PICTURE = 1000, "_leftImg8bit.png"
CATEGORIES = label_table("cityscapes").categories


def open_cityscapes(root: Path, split: str) -> Dataset:
    """A split of gtFine (or gtCoarse where that alone is there): the official panoptic files if they are there, else its label PNGs.

    Raises:
        DataError: pictures or annotation are missing; the text says what was looked for.
    """
    kind = next((kind for kind in ("gtFine", "gtCoarse") if (root / kind).is_dir()), "gtFine")
    index = root / kind / f"cityscapes_panoptic_{split}.json"
    maps = index.with_suffix("")
    if index.is_file() and maps.is_dir():
        place = partial(official_picture, root / "leftImg8bit" / split)
        return with_void(open_coco_panoptic(index, read_json(index), maps, place, split, "Cityscapes panoptic"), root / kind / split, kind)
    folder = root / kind / split
    suffix, trained = f"_{kind}_labelIds.png", f"_{kind}_labelTrainIds.png"
    labels = sorted(folder.glob(f"*/*{suffix}"))
    if not labels:
        extra = f" (there are only {trained[1:]}: download gtFine again, or write them anew)" if any(folder.glob(f"*/*{trained}")) else ""
        raise DataError(f"no *{suffix} in the city folders of {folder}, and no {index.name} with its folder beside it{extra}")
    pictures = []
    for path in labels:
        stem = path.name.removesuffix(suffix)
        picture = root / "leftImg8bit" / split / path.parent.name / (stem + PICTURE)
        instance_ids = path.with_name(f"{stem}_{kind}_instanceIds.png")
        panoptic = partial(read_panoptic, instance_ids) if instance_ids.is_file() else None
        instances = partial(_instances, instance_ids) if panoptic else None
        semantic = partial(read_labels, path)
        pictures.append(AnnotatedPicture(f"{path.parent.name}/{stem}", stem, picture, None, panoptic, instances, semantic))
    lacking = sum(picture.read_panoptic is None for picture in pictures)
    if 0 < lacking < len(pictures):
        raise DataError(f"{folder}: {lacking} of {len(pictures)} pictures have labelIds but no instanceIds. Copy gtFine again, whole.")
    return with_void(Dataset(f"Cityscapes {kind}", root, split, CATEGORIES, pictures), folder, kind)


def with_void(dataset: Dataset, folder: Path, kind: str) -> Dataset:
    """The data set with what Cityscapes' own AP needs, where its instanceIds lie in the cities' folders."""
    pictures = []
    for picture in dataset.pictures:
        stem = picture.path.name.removesuffix(PICTURE)
        instance_ids = folder / picture.path.parent.name / f"{stem}_{kind}_instanceIds.png"
        pictures.append(replace(picture, read_cityscapes_void=partial(read_void, instance_ids)) if instance_ids.is_file() else picture)
    return replace(dataset, pictures=pictures)


def read_void(path: Path) -> NDArray[np.bool_]:
    """Of instanceIds, pixels of classes outside the evaluation; not those of their objects (caravans), as in Cityscapes' own AP."""
    values = read_map(path)
    void: NDArray[np.bool_] = (values < GROUP) & ~np.isin(values, [category.id for category in CATEGORIES])
    return void


def official_picture(folder: Path, name: str) -> Path:
    """The picture that the official panoptic JSON names `CITY_..._gtFine_leftImg8bit.png`: it lies in its city's folder."""
    plain = name.rsplit("/", 1)[-1].replace("_gtFine_", "_")
    return folder / plain.split("_", 1)[0] / plain


def read_panoptic(path: Path) -> PanopticMap:
    """instanceIds as a panoptic map, as createPanopticImgs.py makes it."""
    values = read_map(path)
    things = {category.id: category.isthing for category in CATEGORIES}
    found = [value for value in np.unique(values).tolist() if _label(value) in things]
    segments = tuple(PanopticSegment(value, _label(value), value < GROUP and things[_label(value)]) for value in found)
    return PanopticMap(np.where(np.isin(values, found), values, 0).astype(np.int32), segments)


def read_labels(path: Path) -> NDArray[np.int32]:
    """labelIds, with VOID where the class is outside the evaluation."""
    values = read_map(path)
    return np.where(np.isin(values, [category.id for category in CATEGORIES]), values, VOID).astype(np.int32)


def _label(value: int) -> int:
    return value // GROUP if value >= GROUP else value


def _instances(path: Path) -> tuple[Instance, ...]:
    return instances_of(read_panoptic(path), CATEGORIES)


def recognises(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return any((root / kind).is_dir() for kind in ("gtFine", "gtCoarse"))


def splits(root: Path) -> Sequence[str]:
    """Splits that are there."""
    found: set[Any] = {path.name for kind in ("gtFine", "gtCoarse") for path in (root / kind).glob("*") if path.is_dir()}
    panoptic = "cityscapes_panoptic_"
    return sorted({name.removeprefix(panoptic) for name in found if not name.endswith("_trainId")})
