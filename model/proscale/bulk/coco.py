"""COCO's files of a whole job, made from its rows a few at a time: memory does not grow with the number of segments."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pyarrow.parquet

from proscale.bulk.formats import place_of
from proscale.bulk.rows import segmentation_of
from proscale.config import Task
from proscale.formats import coco

ROWS_AT_ONCE = 256


class _List:
    """A JSON list in the making, in a file that appears when it is complete."""

    def __init__(self, path: Path, head: str) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._file = self._part.open("w", encoding="utf-8")
        self._file.write(head + "[")
        self._first = True

    def add(self, entry: dict[str, Any]) -> None:
        """One more entry."""
        self._file.write(("\n" if self._first else ",\n") + json.dumps(entry, separators=(",", ":")))
        self._first = False

    def finish(self, tail: str) -> None:
        """Close the list, and let the file appear."""
        self._file.write("]" + tail + "\n")
        self._file.close()
        os.replace(self._part, self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def image_ids(paths: Sequence[str]) -> dict[str, int]:
    """Numbers for pictures: their file names where all of these are numbers, as COCO's are; else 1, 2, ... by path."""
    ordered = sorted(paths)
    stems = [PurePosixPath(place_of(path)).stem for path in ordered]
    if all(stem.isascii() and stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return dict(zip(ordered, map(int, stems), strict=True))
    return {path: number for number, path in enumerate(ordered, 1)}


def write_coco(folder: Path, parts: Sequence[Path], tasks: Sequence[Task]) -> None:
    """Write `images.json`, and per task `TASK-results.json`, for panoptic `panoptic.json` besides the PNGs that are there already.

    Args:
        folder: OUTPUT.
        parts: its tables of rows.

    Raises:
        OSError: a file cannot be written; those of before stay.
    """
    ids = image_ids([row["path"] for row in _rows(parts, ["path", "error"]) if row["error"] is None])
    with ExitStack() as stack:
        images = stack.enter_context(_List(folder / "images.json", '{"images":'))
        names = {task: folder / ("panoptic.json" if task == "panoptic" else f"{task}-results.json") for task in tasks}
        lists = {task: stack.enter_context(_List(path, '{"annotations":' if task == "panoptic" else "")) for task, path in names.items()}
        known: dict[int, dict[str, Any]] = {}
        for row in _rows(parts, ["path", "height", "width", "segments", "error"]):
            if row["error"] is not None:
                continue
            number = ids[row["path"]]
            images.add({"id": number, "file_name": row["path"], "height": row["height"], "width": row["width"]})
            for task in tasks:
                segmentation = segmentation_of(row, task)
                known |= {each["id"]: each for each in coco.categories([segmentation])}
                if task == "panoptic":
                    lists[task].add(coco.panoptic_annotation(segmentation, number, f"{place_of(row['path'])}.png"))
                    continue
                for entry in coco.results(segmentation, number):
                    lists[task].add(entry)
        categories = ',"categories":' + json.dumps([known[number] for number in sorted(known)]) + "}"
        for task, each in lists.items():
            each.finish(categories if task == "panoptic" else "")
        images.finish(categories)


def _rows(parts: Sequence[Path], columns: list[str]) -> Iterator[dict[str, Any]]:
    for part in parts:
        with pyarrow.parquet.ParquetFile(part) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                yield from batch.to_pylist()
