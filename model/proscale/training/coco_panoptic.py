"""Reader of a data set in COCO panoptic layout: `SPLIT/` pictures, `panoptic_SPLIT/` id maps, `panoptic_SPLIT.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from proscale.labels import Category
from proscale.training.sample import DataError, Sample, class_index

LAYOUT = "expected FOLDER/{split}/ with pictures, FOLDER/panoptic_{split}/ with id maps as PNG, and FOLDER/panoptic_{split}.json"


def read_index(root: Path, split: str) -> dict[str, Any]:
    """`panoptic_SPLIT.json` as it stands, after a check of the layout.

    Raises:
        DataError: the folder is not such a data set; the message says what is missing.
    """
    layout = LAYOUT.format(split=split)
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; {layout}")
    path = root / f"panoptic_{split}.json"
    for needed in (root / split, root / f"panoptic_{split}", path):
        if not needed.exists():
            raise DataError(f"{needed} is missing; {layout}")
    try:
        index = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(index, dict) or not all(isinstance(index.get(key), list) for key in ("images", "annotations", "categories")):
        raise DataError(f"{path} lacks one of the lists images, annotations, categories of COCO's panoptic format")
    if not index["annotations"]:
        raise DataError(f"{path} has no annotations")
    return index


def read_categories(root: Path, split: str = "train") -> tuple[Category, ...]:
    """The data set's own categories, in the order of its file."""
    return tuple(Category(c["id"], c["name"], bool(c["isthing"])) for c in read_index(root, split)["categories"])


class CocoPanoptic:
    """The pictures of one split, read when asked for, with classes numbered in the caller's label space."""

    def __init__(self, root: Path, split: str, categories: Sequence[Category]) -> None:
        self.root, self.split = root, split
        index = read_index(root, split)
        self.annotations: list[dict[str, Any]] = index["annotations"]
        self._pictures = {image["id"]: image["file_name"] for image in index["images"]}
        by_name = class_index(categories)
        unknown = [c["name"] for c in index["categories"] if c["name"] not in by_name]
        if unknown:
            raise DataError(f"{root} has categories that the model does not know: {', '.join(unknown)}")
        self._class_of = {c["id"]: by_name[c["name"]] for c in index["categories"]}

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        """Read picture `index` and its truth.

        Raises:
            DataError: a file is missing or unreadable, sizes differ, or the id map and the index disagree.
        """
        annotation = self.annotations[index]
        name = self._pictures.get(annotation["image_id"])
        if name is None:
            raise DataError(f"annotation of image {annotation['image_id']} in {self.root} has no entry in images")
        try:
            image = np.asarray(Image.open(self.root / self.split / name).convert("RGB"))
            colours = np.asarray(Image.open(self.root / f"panoptic_{self.split}" / annotation["file_name"]).convert("RGB")).astype(np.int32)
        except OSError as error:
            raise DataError(f"cannot read picture or id map of {name} in {self.root}: {error}") from error
        if image.shape != colours.shape:
            raise DataError(f"{name} and its id map differ in size: {image.shape[:2]} and {colours.shape[:2]}")
        # COCO panoptic format: id = R + 256 G + 256^2 B.
        raw = colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]
        segments = annotation["segments_info"]
        values, inverse = np.unique(raw, return_inverse=True)
        number = {segment["id"]: i + 1 for i, segment in enumerate(segments)}
        if any(value != 0 and value not in number for value in values.tolist()):
            raise DataError(f"the id map of {name} has ids that its annotation does not list")
        ids = np.array([number.get(value, 0) for value in values.tolist()], np.int32)[inverse].reshape(raw.shape)
        try:
            classes = np.array([self._class_of[segment["category_id"]] for segment in segments], np.int64)
        except KeyError as error:
            raise DataError(f"{name} uses category {error} that {self.root}/panoptic_{self.split}.json does not define") from error
        crowd = np.array([bool(segment.get("iscrowd", 0)) for segment in segments], np.bool_)
        return Sample(image, ids, classes, crowd, name)
