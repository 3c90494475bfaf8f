"""What OUTPUT may have besides the table of rows: files per picture, and COCO's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proscale.config import Task
from proscale.errors import DataError, ParameterError
from proscale.formats.files import FORMATS, FormatOptions, check_formats
from proscale.results import Segmentation

PER_PICTURE = ("json", *(name for name, each in FORMATS.items() if not each.needs_picture and name != "confidence_png"))
"""One file or folder per picture: its row as JSON, or what POST /segment gives under the same name."""
OUTPUT_FORMATS = ("parquet", "coco", *PER_PICTURE)
FILES, PANOPTIC = "files", "panoptic"
"""Folders in OUTPUT: of files per picture, of COCO's panoptic PNGs."""


def check_output_format(name: str, tasks: Sequence[Task]) -> None:
    """Raise ParameterError for a format that cannot hold one of the tasks' results."""
    try:
        check_formats([name], tasks)
    except ValueError as error:
        raise ParameterError(f"output format {error}") from error


def place_of(path: str) -> str:
    """A picture's path or URI as a path within a folder, as `cp --parents` has it: `/a/b.jpg` and `s3://a/b.jpg` become `a/b.jpg`."""
    scheme, mark, rest = path.partition("://")
    parts = (rest if mark else scheme).replace("::", "/").split("/")
    return "/".join("__" if part == ".." else part for part in parts if part not in ("", "."))


def check_places(paths: Sequence[str]) -> None:
    """Raise DataError for two pictures that would have the same files."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(place_of(path), path)
        if other != path:
            raise DataError(f"{other} and {path} would have the same files in OUTPUT; segment them in two jobs")


def make_files(output_format: str, row: Mapping[str, Any], results: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """Files of one picture that was segmented: names relative to OUTPUT, and bytes. Args: row: of `rows.SCHEMA`."""
    place = place_of(row["path"])
    if output_format == "parquet":
        return []
    if output_format == "json":
        text = json.dumps({name: value for name, value in row.items() if name != "files"}, separators=(",", ":"))
        return [{"name": f"{FILES}/{place}.json", "data": text.encode()}]
    if output_format == "coco":
        maps = [FORMATS["coco_panoptic"].write(each, None, FormatOptions())[0] for each in results if each.task == "panoptic"]
        return [{"name": f"{PANOPTIC}/{place}.png", "data": each.data} for each in maps]
    options = FormatOptions(image_id=row["path"], seed=row["path"], prefix=f"{FILES}/{place}.")
    return [{"name": file.name, "data": file.data} for each in results for file in FORMATS[output_format].write(each, None, options)]
