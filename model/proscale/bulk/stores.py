"""Object stores and other places behind a URI: pyarrow's own, and through fsspec whatever it knows."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.fs

from proscale.errors import DataError


@dataclass(frozen=True)
class Place:
    """Something behind a URI."""

    files: Any
    """A `pyarrow.fs.FileSystem`."""
    inside: str
    """Its path there."""
    prefix: str
    root: str
    """What every path there begins with: a URI is the prefix, and the path without this."""
    query: str = ""
    """Options of the connection, `?` and all; they belong to the address, not to a picture's name."""


def is_uri(name: str) -> bool:
    """Whether a name leads into a store."""
    return "://" in name


def place(uri: str) -> Place:
    """Find what a URI names, which need not exist.

    Raises:
        DataError: nothing here knows such URIs, or the store cannot be reached.
    """
    scheme, _, rest = uri.partition("://")
    path, mark, query = rest.partition("?") if "=" in rest.partition("?")[2] else (rest, "", "")
    host, _, inside = path.partition("/")
    try:
        native = _native(f"{scheme}://{host}/{mark}{query}")
        if native is None:
            return _through_fsspec(f"{scheme}://{path}")
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{uri} cannot be opened: {error}") from error
    files, root = native
    root = root.rstrip("/") + "/"
    if scheme == "file" and not Path(root + inside).exists():
        inside = unquote(inside)  # such as Path.as_uri writes them
    return Place(files, (root + inside).rstrip("/") or "/", f"{scheme}://{host}/", root, mark + query)


def uri_of(there: Place, inside: str) -> str:
    """The URI of another path in the same store, without options of the connection."""
    return there.prefix + inside.removeprefix(there.root)


def open_input(name: str) -> Any:
    """A file or a store's file, open for reading bytes anywhere. Raises DataError, OSError."""
    if not is_uri(name):
        return Path(name).open("rb")
    found = place(name)
    return found.files.open_input_file(found.inside)


def stamp(name: str) -> str:
    """What changes when a file is changed: its size and its time. Raises DataError, OSError."""
    if not is_uri(name):
        about = Path(name).stat()
        return f"{about.st_size}:{about.st_mtime_ns}"
    found = place(name)
    info = found.files.get_file_info(found.inside)
    return f"{info.size}:{info.mtime_ns}"


@lru_cache(maxsize=32)
def _native(base: str) -> tuple[Any, str] | None:
    """One of pyarrow's own file systems and the path of its root, None for a scheme that it has none for; made once a process."""
    try:
        files, root = pyarrow.fs.FileSystem.from_uri(base)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        if "filesystem type" not in str(error):
            raise
        return None
    return files, root


def _through_fsspec(uri: str) -> Place:
    scheme = uri.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DataError(f"{uri}: pyarrow does not read {scheme}://; with fsspec more can be read: pip install fsspec") from error
    try:
        files, inside = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise DataError(f"{uri}: neither pyarrow nor fsspec reads {scheme}:// here: {error}") from error
    return Place(pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files)), inside, f"{scheme}://", "/")
