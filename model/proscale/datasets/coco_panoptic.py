"""COCO's panoptic layout: an index file, a folder of PNGs with ids, a folder of pictures; also Cityscapes' and ADE20K's official files."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from proscale.datasets.annotation import AnnotatedPicture, Dataset, Instance, PanopticMap, PanopticSegment, instances_of, semantic_of
from proscale.datasets.json_fields import categories_of, crowd_of, field_of, integer_of, repeated, rows_of
from proscale.datasets.png_maps import read_id_map
from proscale.errors import DataError
from proscale.labels import Category

NOT_PANOPTIC = (
    "It looks like an instances file; panoptic files list segments_info. Name it instances_SPLIT.json, or give it as the data set."
)


def open_coco_panoptic(
    index: Path,
    values: Any,
    maps: Path,
    picture_path: Callable[[str], Path],
    split: str,
    layout: str = "COCO panoptic",
) -> Dataset:
    """A data set from an index file that has been read.

    Args:
        index: path of the file, for messages.
        values: what it holds.
        maps: folder of the id maps.
        picture_path: `file_name` of a picture -> its path.

    Raises:
        DataError: names the file, the field and the remedy.
    """
    categories = categories_of(values, index)
    images = {row_id(row, index, f"images[{i}]"): row for i, row in enumerate(rows_of(values, "images", index))}
    known = {category.id for category in categories}
    pictures = []
    annotated = []
    for i, row in enumerate(rows_of(values, "annotations", index)):
        where = f"annotations[{i}]"
        annotation = parse_annotation(row, index, where, known)
        image_id = row.get("image_id")
        if image_id not in images:
            raise DataError(f"{index}: {where} is of image {image_id!r}, which 'images' does not list")
        annotated.append(image_id)
        name = field_of(images[image_id], "file_name", str, index, f"the image {image_id!r}", "It names the picture file.")
        panoptic = partial(read_panoptic, maps / annotation[0], annotation[1])
        pictures.append(
            AnnotatedPicture(
                name,
                image_id,
                picture_path(name),
                size_of(images[image_id]),
                panoptic,
                partial(_instances, panoptic, categories),
                partial(_semantic, panoptic),
            )
        )
    if twice := repeated(annotated):
        raise DataError(f"{index} has two annotations of the image {twice[0]!r}")
    if not pictures:
        raise DataError(f"{index} has no annotations")
    rest = len(images) - len(pictures)
    notes = (f"{rest} pictures without annotation are left out",) if rest else ()
    return Dataset(layout, index.parent, split, categories, pictures, notes)


def parse_annotation(row: Any, index: Path, where: str, known: set[int]) -> tuple[str, tuple[PanopticSegment, ...]]:
    """One entry of `annotations`: its PNG's name and its segments."""
    if isinstance(row, Mapping) and "segments_info" not in row and "segmentation" in row:
        raise DataError(f"{index}: {where} has no 'segments_info'. {NOT_PANOPTIC}")
    name = field_of(row, "file_name", str, index, where, "It names the PNG with the segments' ids.")
    segments = []
    for j, info in enumerate(field_of(row, "segments_info", list, index, where, "It lists the segments' id and category_id.")):
        place = f"{where}.segments_info[{j}]"
        category_id = integer_of(info, "category_id", index, place)
        if category_id not in known:
            raise DataError(f"{index}: {place} is of category {category_id}, which 'categories' does not list")
        area = integer_of(info, "area", index, place) if info.get("area") is not None else None
        segments.append(PanopticSegment(integer_of(info, "id", index, place), category_id, crowd_of(info, index, place), area))
    if twice := repeated([segment.id for segment in segments]):
        raise DataError(f"{index}: {where} lists the id {twice[0]} twice; every segment needs its own")
    return name, tuple(segments)


def row_id(row: Any, index: Path, where: str) -> int | str:
    """An image's id, which Cityscapes writes as text."""
    value: int | str = field_of(row, "id", (int, str), index, where)
    return value


def size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width), where both are given."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def read_panoptic(path: Path, segments: tuple[PanopticSegment, ...]) -> PanopticMap:
    """The map of one picture."""
    return PanopticMap(read_id_map(path), segments)


def _instances(panoptic: Callable[[], PanopticMap], categories: tuple[Category, ...]) -> tuple[Instance, ...]:
    return instances_of(panoptic(), categories)


def _semantic(panoptic: Callable[[], PanopticMap]) -> Any:
    return semantic_of(panoptic())
