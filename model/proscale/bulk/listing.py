"""Which pictures a job has: folders, patterns, lists, Parquet with a column `path`, on disks and in object stores."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs
import pyarrow.parquet

from proscale.errors import DataError
from proscale.pictures import SUFFIXES


def list_pictures(sources: Sequence[str]) -> list[str]:
    """Paths or URIs of all pictures, each once, in order.

    Args:
        sources: folders (with all their folders), pictures, patterns such as `photos/*.jpg`, `.txt` files with a path per line, `.parquet`
            files with a column `path`; or URIs of folders and files, such as `s3://bucket/photos`.

    Raises:
        DataError: a source is not there, or holds no picture; the text names it.
    """
    found: list[str] = []
    for source in sources:
        paths = _listed(source)
        if not paths:
            raise DataError(f"{source} holds no picture; known are {', '.join(SUFFIXES)}")
        found += paths
    return list(dict.fromkeys(found))


def read_bytes(path: str) -> bytes:
    """A picture's bytes. Raises OSError when it cannot be read."""
    if "://" not in path:
        return Path(path).read_bytes()
    files, inside = pyarrow.fs.FileSystem.from_uri(path)
    with files.open_input_stream(inside) as stream:
        data: bytes = stream.readall()
    return data


def _listed(source: str) -> list[str]:
    if "://" in source:
        return _in_store(source)
    path = Path(source)
    if path.is_dir():
        return sorted(str(each) for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    if any(mark in source for mark in "*?[") and not path.exists():
        pattern = path.absolute()
        return sorted(str(each) for each in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))) if each.is_file())
    if not path.is_file():
        raise DataError(f"{source} is not there: give a folder, a picture, a pattern, a .txt or .parquet list, or a URI")
    if path.suffix == ".parquet":
        try:
            return [str(each) for each in pyarrow.parquet.read_table(path, columns=["path"]).column("path").to_pylist()]
        except (pyarrow.ArrowException, KeyError) as error:
            raise DataError(f"{source} is no Parquet file with a column `path`: {error}") from error
    if path.suffix == ".txt":
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [source]


def _in_store(source: str) -> list[str]:
    try:
        files, inside = pyarrow.fs.FileSystem.from_uri(source)
        scheme = source.partition("://")[0]
        if files.get_file_info(inside).is_file:
            return [source]
        infos = files.get_file_info(pyarrow.fs.FileSelector(inside, recursive=True))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be listed: {error}") from error
    return sorted(f"{scheme}://{info.path}" for info in infos if info.is_file and info.path.lower().endswith(SUFFIXES))
