"""OUTPUT: a folder of Parquet files that appear when they are complete, and that say what is done; and files per picture."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow
import pyarrow.parquet

from proscale.bulk.rows import SCHEMA
from proscale.errors import DataError

JOB, LOCK, SUMMARY = "_job.json", "_lock", "_summary.json"


class OutputFolder:
    """Holds the folder for one job. Use it as a context manager."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        """Make the folder, or go on with it.

        Args:
            job: what decides the results: a folder that was begun with something else is refused.

        Raises:
            DataError: another job writes there, or another one wrote there; the text has the remedy.
            OSError: the folder cannot be written.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = (path / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise DataError(f"another job writes to {path}; wait for it, or name another OUTPUT") from error
        known = path / JOB
        if known.exists() and (before := json.loads(known.read_text(encoding="utf-8"))) != dict(job):
            changed = sorted(name for name in {*before, *job} if before.get(name) != job.get(name))
            self._lock.close()
            raise DataError(f"{path} was begun with other {', '.join(changed)}; give the same, or name another OUTPUT")
        _write(known, (json.dumps(dict(job), indent=1) + "\n").encode())
        for left in path.glob(".*.part"):
            left.unlink()
        self._next = 1 + max((int(part.stem.rpartition("-")[2]) for part in self.parts), default=0)

    @property
    def parts(self) -> list[Path]:
        """The files that are complete, in their order."""
        return sorted(self.path.glob("part-*.parquet"))

    def done(self) -> dict[str, bool]:
        """Paths of all pictures that have a row, and whether it is an error's.

        Raises:
            DataError: a file there is no table of rows.
        """
        found: dict[str, bool] = {}
        for part in self.parts:
            try:
                table = pyarrow.parquet.read_table(part, columns=["path", "error"])
            except pyarrow.ArrowException as error:
                raise DataError(f"{part} cannot be read: {error}; remove it, and its pictures are done again") from error
            failed = table.column("error").is_valid().to_pylist()
            found |= dict(zip(table.column("path").to_pylist(), failed, strict=True))
        return found

    def add(self, rows: pyarrow.Table) -> None:
        """Write rows of `SCHEMA`, and first the files that come with them: a picture is done when it has a row, and then it has all.

        Raises:
            OSError: then none of the rows is there.
        """
        if "files" in rows.column_names:
            for files in rows.column("files"):
                for file in files.as_py() or ():
                    whole = self.path / file["name"]
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    _write(whole, file["data"])
        path = self.path / f"part-{self._next:06d}.parquet"
        part = self.path / f".{path.name}.part"
        try:
            pyarrow.parquet.write_table(rows.select(SCHEMA.names).cast(SCHEMA), part, compression="zstd")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        self._next += 1

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write what became of the job."""
        _write(self.path / SUMMARY, (json.dumps(dict(summary), indent=1) + "\n").encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
