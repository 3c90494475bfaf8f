"""Which layout a folder or file has: every known one is looked for, and an error says so."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from proscale.datasets import ade20k, cityscapes, mapillary, semantic_folder
from proscale.datasets.annotation import Dataset
from proscale.datasets.coco_instances import open_coco_instances
from proscale.datasets.coco_panoptic import open_coco_panoptic
from proscale.datasets.combined import with_instances
from proscale.datasets.json_fields import read_json
from proscale.errors import DataError

KNOWN = """
  COCO:       [annotations/]panoptic_SPLIT.json with a folder panoptic_SPLIT of PNGs, and/or [annotations/]instances_SPLIT.json;
              pictures in SPLIT/ or images/SPLIT/ (SPLIT: val, val2017, train, ...); or SPLIT/_annotations.coco.json among pictures
  Cityscapes: gtFine/SPLIT/CITY/*_gtFine_labelIds.png or gtFine/cityscapes_panoptic_SPLIT.json, and leftImg8bit/SPLIT/CITY
  ADE20K:     images/validation and annotations/validation, annotations_instance/validation or both (training)
  Mapillary:  validation/images, validation/labels (training; v1.2/ or v2.0/ between), and config.json
  PNGs:       images/ and annotations/, masks/ or labels/ with PNGs of the same names, and labels.json or classes.txt
  one file:   a panoptic or instances JSON, its pictures beside it or named"""
DEFAULT_SPLITS = ("val", "validation", "valid", "test", "train")


def open_dataset(
    path: str | Path,
    split: str | None = None,
    *,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    reduce_labels: bool = False,
    ignore_index: int = semantic_folder.IGNORED,
) -> Dataset:
    """Open one split of an annotated data set in any layout that is known; nothing but index files is read yet.

    Args:
        path: the data set's folder, or its index file.
        split: `val`, `train`, or what the data set calls it; `val` finds COCO's `val2017` too. None: `val` where it is there.
        images: folder of the pictures, where they do not lie where the layout puts them.
        labels: file that names the classes of a folder of PNGs.
        reduce_labels: PNGs of a plain folder count classes from 1, and 0 is void.
        ignore_index: number in PNGs of a plain folder that stands for void.

    Raises:
        DataError: nothing known is there; the text says what was looked for. Or a file is malformed; it names file, field and remedy.
    """
    root = Path(path)
    folder = None if images is None else Path(images)
    if root.is_file():
        return _open_file(root, split, folder)
    if not root.is_dir():
        raise DataError(f"no data set at {root}: neither a folder nor a file")
    opened = _open_folder(root, split, folder, None if labels is None else Path(labels), reduce_labels, ignore_index)
    if opened is None:
        found = ", ".join(sorted(child.name for child in root.iterdir())[:12]) or "nothing"
        raise DataError(f"{root} has no layout that is known. It holds {found}. Looked for:{KNOWN}")
    if not opened.pictures:
        raise DataError(f"{root} has no annotated pictures in its split {opened.split!r}")
    return opened


def _open_folder(
    root: Path, split: str | None, images: Path | None, labels: Path | None, reduce_labels: bool, ignore_index: int
) -> Dataset | None:
    layouts: list[tuple[Any, Callable[[Path, str], Dataset]]] = [
        (cityscapes, cityscapes.open_cityscapes),
        (mapillary, mapillary.open_mapillary),
    ]
    for module, open_layout in layouts:
        if module.recognises(root):
            return open_layout(root, choose_split(root, split, module.splits(root)))
    indexes = list(_coco_indexes(root))
    if indexes:
        return _open_coco(root, indexes, choose_split(root, split, sorted({name for _, name, _ in indexes})), images)
    if ade20k.recognises(root):
        return ade20k.open_ade20k(root, choose_split(root, split, ade20k.splits(root)))
    if found := semantic_folder.splits(root):
        split = choose_split(root, split, found)
    folders = semantic_folder.find_folders(root, split)
    if folders is None:
        return None
    chosen = (images or folders[0], folders[1])
    return semantic_folder.open_semantic_folder(root, split or "all", chosen, labels, reduce_labels, ignore_index)


def choose_split(root: Path, asked: str | None, found: Sequence[str]) -> str:
    """The split that is meant: the one of that name, or the only one that starts with it (`val` -> `val2017`).

    Raises:
        DataError: none, or more than one.
    """
    wanted = DEFAULT_SPLITS if asked is None else (asked, *(["val"] if asked == "validation" else ["train"] if asked == "training" else []))
    for name in wanted:
        if name in found:
            return name
        family = [one for one in found if re.fullmatch(rf"{re.escape(name)}[\d_-]*", one)]
        if len(family) == 1:
            return family[0]
        if family:
            raise DataError(f"{root} has the splits {', '.join(family)}; name one of them")
    if asked is None and len(found) == 1:
        return found[0]
    there = ", ".join(found) or "none"
    raise DataError(f"{root} has no split {asked or 'val'!r}; it has {there}")


def _coco_indexes(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, split, path) of every COCO index file."""
    for folder in (root, root / "annotations"):
        for path in sorted(folder.glob("*.json")):
            if match := re.fullmatch(r"(?:\w+_)?(panoptic|instances?)_(?P<split>[\w-]+)", path.stem):
                yield match[1].removesuffix("s"), match["split"], path
    for path in sorted(root.glob("*/_annotations.coco.json")):
        yield "instance", path.parent.name, path


def _open_coco(root: Path, indexes: Sequence[tuple[str, str, Path]], split: str, images: Path | None) -> Dataset:
    chosen = {kind: path for kind, name, path in indexes if name == split}
    panoptic = _open_file(chosen["panoptic"], split, images, root) if "panoptic" in chosen else None
    if "instance" not in chosen:
        assert panoptic is not None  # one of the two gave the split its name
        return panoptic
    instances = _open_file(chosen["instance"], split, images, root)
    return instances if panoptic is None else with_instances(panoptic, instances, chosen["instance"])


def _open_file(index: Path, split: str | None, images: Path | None, root: Path | None = None) -> Dataset:
    """An index file: what it holds decides what it is, not its name."""
    if index.suffix.lower() != ".json":
        raise DataError(f"{index} is neither a folder nor a JSON index of COCO's form. Looked for:{KNOWN}")
    values = read_json(index)
    name = split or re.sub(r"^.*?(panoptic|instances?)_", "", index.stem)
    if "segments_info" in _first(values, "annotations") or "panoptic" in index.stem:
        maps = next((folder for folder in (index.with_suffix(""), index.parent / name) if folder.is_dir()), None)
        cities = index.stem.startswith("cityscapes_panoptic_")
        if maps is None or (maps == index.parent / name and _is_picture_folder(maps, values)):
            raise DataError(f"{index.with_suffix('')} is missing: the folder of PNGs that belongs to {index.name}")
        if cities and images is None:
            base = index.parent.parent / "leftImg8bit" / name.removeprefix("cityscapes_panoptic_")
            opened = open_coco_panoptic(index, values, maps, partial(cityscapes.official_picture, base), name, "Cityscapes panoptic")
            return cityscapes.with_void(opened, index.parent / base.name, index.parent.name)
        return open_coco_panoptic(index, values, maps, _picture_folder(index, values, name, images, root), name)
    return open_coco_instances(index, values, _picture_folder(index, values, name, images, root), name)


def _picture_folder(index: Path, values: Any, split: str, images: Path | None, root: Path | None) -> Callable[[str], Path]:
    """Where `file_name`s start from: the first of the usual folders that has the first picture."""
    if images is not None:
        return partial(_join, images)
    long = {"val": "validation", "train": "training"}.get(split, split)
    tops = [top for top in (root, index.parent, index.parent.parent) if top is not None]
    below = [Path(split), Path("images", split), Path(split, "images"), Path(long), Path("images", long), Path("images"), Path()]
    candidates = [top / part for top in tops for part in below]
    file_name = _first(values, "images").get("file_name")
    for folder in candidates:
        if isinstance(file_name, str) and (folder / file_name).is_file():
            return partial(_join, folder)
    # Nothing to find yet: predictions on disk can be judged without the pictures.
    return partial(_join, next((folder for folder in candidates[:3] if folder.is_dir()), candidates[0]))


def _is_picture_folder(folder: Path, values: Any) -> bool:
    name = _first(values, "annotations").get("file_name")
    return not isinstance(name, str) or not (folder / name).is_file()


def _first(values: Any, field: str) -> dict[str, Any]:
    """The first entry of a list that may not be there, or hold what it should; the layout's own reader tells."""
    rows = values.get(field) if isinstance(values, dict) else None
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}


def _join(folder: Path, name: str) -> Path:
    return folder / name
