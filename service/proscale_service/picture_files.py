"""Which picture files a command line names, and where their results go."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from proscale.pictures import SUFFIXES


@dataclass(frozen=True)
class PictureFile:
    """One picture to segment."""

    path: Path
    name: Path
    """Its path inside the folder that was named, or its file name: what its results are called inside a folder of results."""


def find_pictures(inputs: Iterable[Path], recursive: bool = False, results: Sequence[Path] = ()) -> list[PictureFile]:
    """Files as they are; folders replaced by the pictures inside, sorted, without hidden files (`._*` of macOS among them).

    Args:
        recursive: look into the folders' folders too.
        results: folders that are not looked into, because earlier results lie there.

    Raises:
        click.BadParameter: a folder holds no picture, or cannot be read.
    """
    pictures: list[PictureFile] = []
    skipped = {path.resolve() for path in results}
    for given in inputs:
        if not given.is_dir():
            pictures.append(PictureFile(given, Path(given.name)))
            continue
        try:
            inside = [PictureFile(path, path.relative_to(given)) for path in sorted(_inside(given, recursive, skipped))]
        except OSError as error:
            raise click.BadParameter(f"{given} cannot be read: {error.strerror}") from error
        if not inside:
            deeper = "" if recursive else "; --recursive also reads the folders in it"
            raise click.BadParameter(f"{given} has no picture ({', '.join(SUFFIXES)}){deeper}")
        pictures += inside
    return pictures


def is_folder(output: Path, text: str, inputs: Iterable[Path]) -> bool:
    """Whether an output is a folder, which no number of pictures decides.

    It is one when it ends with a slash or exists as a folder, or when a folder of pictures was named; else it is a file.
    """
    return text.endswith(("/", os.sep)) or output.is_dir() or any(path.is_dir() for path in inputs)


def place(picture: PictureFile, output: Path, folder: bool, suffix: str) -> Path:
    """Where a picture's result goes."""
    return output / picture.name.with_name(picture.name.name + suffix) if folder else output


def _inside(folder: Path, recursive: bool, skipped: set[Path]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail):
        here = Path(root)
        folders[:] = [name for name in folders if recursive and not name.startswith(".") and (here / name).resolve() not in skipped]
        yield from (here / name for name in files if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."))
