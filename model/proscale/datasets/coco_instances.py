"""COCO's instance layout: polygons, uncompressed and compressed RLE, crowds, in one index file."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from proscale.datasets.annotation import AnnotatedPicture, Dataset, Instance
from proscale.datasets.coco_panoptic import row_id, size_of
from proscale.datasets.json_fields import categories_of, crowd_of, field_of, integer_of, rows_of
from proscale.errors import DataError
from proscale.results import RLE
from proscale.rle import compress, decompress


def open_coco_instances(index: Path, values: Any, picture_path: Callable[[str], Path], split: str) -> Dataset:
    """A data set from an index file that has been read; pictures without objects are part of it.

    Raises:
        DataError: names the file, the field and the remedy.
    """
    categories = categories_of(values, index, things_only=True)
    by_image = annotations_by_image(index, values, {category.id for category in categories})
    pictures = []
    for i, row in enumerate(rows_of(values, "images", index)):
        where = f"images[{i}]"
        image_id = row_id(row, index, where)
        name = field_of(row, "file_name", str, index, where, "It names the picture file.")
        size = size_of(row)
        if size is None:
            raise DataError(f"{index}: {where} has no 'height' and 'width'. Polygons cannot be filled without them; add them.")
        instances = partial(parse_instances, by_image.get(image_id, []), size, index)
        pictures.append(AnnotatedPicture(name, image_id, picture_path(name), size, read_instances=instances))
    if not pictures:
        raise DataError(f"{index} has no images")
    return Dataset("COCO instances", index.parent, split, categories, pictures)


def annotations_by_image(index: Path, values: Any, known: set[int]) -> dict[int | str, list[tuple[int, Any]]]:
    """The entries of `annotations` with their places in the list, by image; image and category are checked."""
    images = {row_id(row, index, f"images[{i}]") for i, row in enumerate(rows_of(values, "images", index))}
    by_image = defaultdict(list)
    for i, row in enumerate(rows_of(values, "annotations", index)):
        where = f"annotations[{i}]"
        image_id = field_of(row, "image_id", (int, str), index, where)
        if image_id not in images:
            raise DataError(f"{index}: {where} is of image {image_id!r}, which 'images' does not list")
        category_id = integer_of(row, "category_id", index, where)
        if category_id not in known:
            raise DataError(f"{index}: {where} is of category {category_id}, which 'categories' does not list")
        if "segmentation" not in row:
            what = "It is a panoptic file; name it panoptic_SPLIT.json." if "segments_info" in row else "Boxes alone cannot judge masks."
            raise DataError(f"{index}: {where} has no 'segmentation'. {what}")
        by_image[image_id].append((i, row))
    return by_image


def parse_instances(rows: list[tuple[int, Mapping[str, Any]]], size: tuple[int, int], index: Path) -> tuple[Instance, ...]:
    """The objects of one picture of (height, width) pixels."""
    instances = []
    for i, row in rows:
        where = f"annotations[{i}]"
        mask = parse_segmentation(row["segmentation"], size, index, where)
        area = row.get("area")
        if area is not None and not isinstance(area, int | float):
            raise DataError(f"{index}: 'area' of {where} is {area!r}, not a number")
        instances.append(Instance(int(row["category_id"]), mask, crowd_of(row, index, where), None if area is None else float(area)))
    return tuple(instances)


def parse_segmentation(value: Any, size: tuple[int, int], index: Path, where: str) -> RLE:
    """Polygons, RLE with a list of counts, or RLE with compressed counts -> RLE.

    Raises:
        DataError: it is none of these, or does not fit the picture.
    """
    height, width = size
    try:
        if isinstance(value, list):
            if not value:
                return RLE(size, compress(np.array([height * width], np.int64)))
            if not all(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in value):
                raise ValueError("a polygon has at least three corners, x and y of each")
            merged = coco_mask.merge(coco_mask.frPyObjects(value, height, width))
            return RLE(size, merged["counts"].decode("ascii"))
        counts, given = value["counts"], tuple(value["size"])
        if given != size:
            raise ValueError(f"its size is {given}, the picture's (height, width) is {size}")
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        runs = decompress(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        if runs.sum() != height * width or (runs < 0).any():
            raise ValueError(f"its runs cover {runs.sum()} pixels, not {height * width}")
        return RLE(size, counts if isinstance(counts, str) else compress(runs))
    except (KeyError, TypeError, ValueError, OverflowError, UnicodeError) as error:
        text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{index}: 'segmentation' of {where} is neither polygons nor RLE: {text}") from error
