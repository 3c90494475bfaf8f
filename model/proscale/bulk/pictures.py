"""One picture of a job: what names it, and where its bytes lie."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow

from proscale.bulk import containers
from proscale.bulk.stores import is_uri, open_input
from proscale.errors import PictureError

SCHEMA = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("file", pyarrow.string()),
        ("start", pyarrow.int64()),
        ("size", pyarrow.int64()),
        ("stamp", pyarrow.string()),
    ]
)
"""A table of pictures, as actors are given it."""


class Picture(NamedTuple):
    """Where a picture lies."""

    path: str
    """What names it in OUTPUT; a path or URI, `ARCHIVE::MEMBER`, or `FILE.parquet::ROW`."""
    file: str = ""
    """The file that holds it; empty: the path is it."""
    start: int = -1
    """First byte in a tar, or row in a Parquet file; -1: the whole file."""
    size: int = -1
    """Bytes in a tar; -1: the whole file, or a row of a Parquet file."""
    stamp: str = ""
    """What a tar or Parquet file was when it was listed: places in it mean nothing once it is another."""


def pictures_of(columns: Mapping[str, Any]) -> list[Picture]:
    """Pictures of a batch. Args: columns: arrays by name; all but `path` may be missing."""
    given = {name: columns[name].tolist() for name in Picture._fields if name in columns}
    return [Picture(**dict(zip(given, values, strict=True))) for values in zip(*given.values(), strict=True)]


def read_bytes(picture: Picture | str) -> bytes:
    """A picture's bytes.

    Raises:
        OSError: it cannot be read.
        PictureError: it, or the file that holds it, was changed under the job.
        DataError: nothing here knows such URIs.
    """
    if isinstance(picture, str):
        picture = Picture(picture)
    if picture.start >= 0:
        containers.check_unchanged(picture.file, picture.stamp)
        if picture.size < 0:
            return containers.row_bytes(picture.file, picture.stamp, picture.start)
        with open_input(picture.file) as stream:
            stream.seek(picture.start)
            part: bytes = stream.read(picture.size)
        if len(part) != picture.size:
            raise PictureError(f"{picture.file} ends within this picture")
        return part
    name = picture.file or picture.path
    if is_uri(name):
        with open_input(name) as stream:
            whole: bytes = stream.read()
        return whole
    with open(name, "rb") as file:
        before = os.fstat(file.fileno())
        data = file.read()
        after = os.fstat(file.fileno())
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or len(data) != after.st_size:
        raise PictureError("the file was changed while it was read; give it in another job when it is complete")
    return data
