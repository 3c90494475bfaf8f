"""Every format for large pictures by its name; all files of one result are written in one pass over its segments.

A file appears under its name when it is complete: until then it is called `.NAME.part`.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proscale.config import Task
from proscale.pictures.large.decoders import Georeference
from proscale.tiles.merge import MergedSegment


@dataclass(frozen=True)
class StreamOptions:
    """What the formats leave open."""

    task: Task
    size: tuple[int, int]
    """(height, width) of the picture in pixels."""
    georeference: Georeference | None = None
    simplify: float = 0.0
    """Tolerance of polygons in pixels; 0: along pixel edges, exact."""
    seed: str = ""
    """What GeoJSON ids are made from."""


class SegmentWriter(Protocol):
    """One file in the making."""

    def add(self, number: int, segment: MergedSegment) -> None:
        """Take in a segment. Args: number: its id, from 1."""
        ...

    def finish(self) -> None:
        """Write what is left, and close the file."""
        ...

    def abandon(self) -> None:
        """Close the file; it is of no use."""
        ...


class MakeWriter(Protocol):
    """Begins a file."""

    def __call__(self, path: Path, options: StreamOptions) -> SegmentWriter:
        """Raises OSError, or ParameterError where a package is missing."""
        ...


def _geojson(path: Path, options: StreamOptions) -> SegmentWriter:
    from proscale.tiles.files.geojson import GeoJSONWriter

    return GeoJSONWriter(path, options)


def _parquet(path: Path, options: StreamOptions) -> SegmentWriter:
    from proscale.tiles.files.parquet import ParquetWriter

    return ParquetWriter(path, options)


def _ids_tiff(path: Path, options: StreamOptions) -> SegmentWriter:
    from proscale.tiles.files.label_tiff import LabelWriter

    return LabelWriter(path, options)


FORMATS: Mapping[str, tuple[str, MakeWriter]] = {
    "geojson": (".geojson", _geojson),
    "parquet": (".parquet", _parquet),
    "ids_tiff": ("-ids.tif", _ids_tiff),
}
"""From a format's name to the end of its file's name and what writes it."""


def write_segments(segments: Iterable[MergedSegment], paths: Mapping[str, Path], options: StreamOptions) -> int:
    """Write all files.

    Args:
        segments: gone through once.
        paths: by format.

    Returns:
        how many segments there were.

    Raises:
        OSError: a file cannot be written; then none of them appears.
        ParameterError: a package is missing; the text has the remedy.
    """
    parts = {name: path.with_name(f".{path.name}.part") for name, path in paths.items()}
    writers: list[SegmentWriter] = []
    number = 0
    with ExitStack() as failed:
        for name, part in parts.items():
            part.parent.mkdir(parents=True, exist_ok=True)
            failed.callback(part.unlink, missing_ok=True)
            writers.append(writer := FORMATS[name][1](part, options))
            failed.callback(writer.abandon)
        for number, segment in enumerate(segments, start=1):
            for writer in writers:
                writer.add(number, segment)
        for writer in writers:
            writer.finish()
        failed.pop_all()
    for name, part in parts.items():
        os.replace(part, paths[name])
    return number
