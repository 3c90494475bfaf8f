"""Which pictures a job has: folders, patterns, lists, tars, Parquet with paths or bytes, on disks and in object stores."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.fs

from proscale.bulk.containers import COMPRESSED, parquet_pictures, tar_members
from proscale.bulk.pictures import Picture
from proscale.bulk.stores import Place, is_uri, open_input, place, stamp, uri_of
from proscale.errors import DataError
from proscale.pictures import SUFFIXES

CONTAINERS = (".tar", ".parquet")
MOST_BRACES = 1_000_000


def list_pictures(sources: Sequence[str]) -> list[Picture]:
    """All pictures, each path once, in order.

    Args:
        sources: each one of
            a folder: all pictures in it and its folders; where it has none, all in its `.tar` and `.parquet` files;
            a picture; a `.tar` with pictures; a `.parquet` file with a column `path`, or with bytes; a `.txt` file with a path per line;
            a pattern such as `photos/*.jpg`, `**` for any folders, `{000..127}` for numbers;
            or any of these behind a URI, such as `s3://bucket/photos`.

    Raises:
        DataError: a source is not there, cannot be read, or holds no picture; the text names it.
    """
    found: dict[str, Picture] = {}
    for source in (each for given in sources for each in _numbered(given)):
        pictures = _in_store(source) if is_uri(source) else _listed(source)
        if not pictures:
            raise DataError(f"{source} holds no picture; known are {', '.join(SUFFIXES)}")
        for picture in pictures:
            found.setdefault(picture.path, picture)
    return list(found.values())


def _numbered(source: str) -> list[str]:
    """`a-{00..02}.tar` -> a-00.tar, a-01.tar, a-02.tar."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", source)
    if match is None:
        return [source]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST_BRACES:
        raise DataError(f"{source}: {match[0]} must go up, over fewer than {MOST_BRACES:,} numbers")
    width = len(match[1])
    return [
        each
        for number in range(first, last + 1)
        for each in _numbered(f"{source[: match.start()]}{number:0{width}}{source[match.end() :]}")
    ]


def _listed(source: str) -> list[Picture]:
    path = Path(source)
    if path.is_dir():
        return _of_folder([str(each) for each in path.rglob("*") if each.is_file()])
    if any(mark in source for mark in "*?[") and not path.exists():
        pattern = path.absolute()
        matched = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        return [picture for each in sorted(map(str, filter(Path.is_file, matched))) for picture in _of_file(each)]
    if not path.is_file():
        raise DataError(f"{source} is not there: give a folder, a picture, a pattern, a .tar, .txt or .parquet file, or a URI")
    return _of_file(source)


def _in_store(source: str) -> list[Picture]:
    found = place(source)
    marks = [position for mark in "*?[" if (position := found.inside.find(mark)) >= 0]
    base = found.inside[: found.inside.rfind("/", 0, min(marks)) + 1] if marks else found.inside
    try:
        if not marks and found.files.get_file_info(found.inside).is_file:
            return _of_file(source)
        infos = found.files.get_file_info(pyarrow.fs.FileSelector(base.rstrip("/") or "/", recursive=True))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be listed: {error}") from error
    files = [info.path for info in infos if info.is_file]
    if not marks:
        return _of_folder([uri_of(found, path) for path in files], found)
    pattern = re.compile(_as_regex(found.inside))
    names = sorted(uri_of(found, path) for path in files if pattern.fullmatch(path))
    return [picture for name in names for picture in _of_file(name + found.query)]


def _of_folder(names: Sequence[str], store: Place | None = None) -> list[Picture]:
    query = "" if store is None else store.query
    pictures = sorted(name for name in names if name.lower().endswith(SUFFIXES))
    if pictures:
        return [Picture(name, name + query if query else "") for name in pictures]
    held = sorted(name for name in names if name.lower().endswith(CONTAINERS))
    return [picture for name in held for picture in _of_file(name + query)]


def _of_file(name: str) -> list[Picture]:
    """Pictures of one file that is there."""
    shown = name.partition("?")[0] if is_uri(name) else name
    kind = shown.lower()
    if kind.endswith((".tar", *COMPRESSED)):
        stamped = stamp(name)
        return [Picture(f"{shown}::{member}", name, start, size, stamped) for member, start, size in tar_members(name)]
    if kind.endswith(".parquet"):
        stamped = stamp(name)
        paths, with_bytes = parquet_pictures(name)
        if not with_bytes:
            return [Picture(path) for path in paths if path is not None]
        return [Picture(path or f"{shown}::{row}", name, row, -1, stamped) for row, path in enumerate(paths)]
    if kind.endswith(".txt"):
        with open_input(name) as stream:
            try:
                lines = bytes(stream.read()).decode().splitlines()
            except UnicodeDecodeError as error:
                raise DataError(f"{name} is no list of paths: it is not in UTF-8") from error
        return [Picture(line.strip()) for line in lines if line.strip()]
    return [Picture(shown, name if name != shown else "")]


def _as_regex(pattern: str) -> str:
    """A pattern of paths as a regular expression: `*` within a folder, `**` over folders."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, part.replace("[!", "[^") if part.startswith("[") else re.escape(part)) for part in parts)
