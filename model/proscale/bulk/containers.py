"""Files that hold many pictures: tars as WebDataset writes them, and Parquet with a column of bytes."""

import tarfile
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from threading import Lock
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from proscale.bulk.stores import is_uri, open_input, stamp
from proscale.errors import DataError, PictureError
from proscale.pictures import SUFFIXES

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
BYTES_COLUMNS = ("bytes", "image", "image.bytes")
"""Where a Parquet file may have a picture's bytes; the last as data sets of Hugging Face have them."""
STAMP_S = 10.0
"""A store is asked again so seldom whether a file is still the same."""
_LOCK = Lock()


def tar_members(name: str) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, bytes) of all pictures of a tar, in its order.

    Raises:
        DataError: it is no tar, a compressed or a truncated one; the text has the remedy.
    """
    if name.lower().endswith(COMPRESSED):
        raise DataError(f"{name} is compressed, and pictures in it cannot be read alone: unpack it, or write it again as .tar")
    try:
        with open_input(name) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if member.isreg() and not member.issparse() and member.name.lower().endswith(SUFFIXES):
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{name} is no tar, or a broken one: {error}") from error


def parquet_pictures(name: str) -> tuple[list[str | None], bool]:
    """Paths of a Parquet file's rows, None for a row without; and whether the bytes stand beside them.

    Raises:
        DataError: it is no Parquet file, or has neither paths nor bytes.
    """
    try:
        with open_input(name) as stream:
            file = pyarrow.parquet.ParquetFile(stream)
            column, rows = _bytes_column(file), file.metadata.num_rows
            if "path" in file.schema_arrow.names:
                return file.read(columns=["path"]).column("path").to_pylist(), column is not None
            if column is not None:
                return [None] * rows, True
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no Parquet file: {error}") from error
    raise DataError(f"{name} has no column `path` with paths, and none of {', '.join(BYTES_COLUMNS)} with bytes")


def row_bytes(name: str, stamped: str, row: int) -> bytes:
    """A picture's bytes in a Parquet file; the group of rows that it lies in is kept for the next. Raises OSError, PictureError."""
    with _LOCK:  # threads that want the same group read it once
        try:
            starts = _group_starts(name, stamped)
            group = next(number for number, end in enumerate(starts[1:]) if row < end)
            data = _group(name, stamped, group)[row - starts[group]].as_py()
        except pyarrow.ArrowException as error:
            raise PictureError(f"{name} cannot be read: {error}") from error
    if data is None:
        raise PictureError(f"row {row} of {name} has no bytes")
    found: bytes = data
    return found


def check_unchanged(name: str, stamped: str) -> None:
    """Raise PictureError for a file that is not the one that was listed."""
    now = _recent_stamp(name, int(time.monotonic() / STAMP_S)) if is_uri(name) else stamp(name)
    if now != stamped:
        raise PictureError(f"{name} was changed after it was listed; give it in another job when it is complete")


@lru_cache(maxsize=64)
def _recent_stamp(name: str, when: int) -> str:
    return stamp(name)


@lru_cache(maxsize=64)
def _group_starts(name: str, stamped: str) -> list[int]:
    with open_input(name) as stream:
        about = pyarrow.parquet.ParquetFile(stream).metadata
        return [0, *accumulate(about.row_group(number).num_rows for number in range(about.num_row_groups))]


@lru_cache(maxsize=1)
def _group(name: str, stamped: str, number: int) -> Any:
    with open_input(name) as stream:
        file = pyarrow.parquet.ParquetFile(stream)
        column = _bytes_column(file)
        found = file.read_row_group(number, columns=[column]).column(0)
    return pyarrow.compute.struct_field(found, "bytes") if column == "image.bytes" else found


def _bytes_column(file: Any) -> str | None:
    schema = file.schema_arrow
    for name in schema.names:
        kind = schema.field(name).type
        if name in BYTES_COLUMNS and (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
            return str(name)
        if name == "image" and pyarrow.types.is_struct(kind) and any(field.name == "bytes" for field in kind):
            return "image.bytes"
    return None
