"""Pictures whose process ended under them: each alone in an actor, so that the one that ends it is known, and the others get their rows."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow

from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.pictures import Picture
from proscale.bulk.rows import SCHEMA, STOP, WITH_FILES


class Guarded:
    """An actor whose exceptions end the job, so that Ray gives up a batch only where a process was lost."""

    def __init__(self, actor: type, arguments: tuple[Any, ...], schema: pyarrow.Schema) -> None:
        """Args: actor, arguments: as in `Work`; schema: of its tables."""
        self._segmenter, self._schema = actor(*arguments), schema

    def __call__(self, batch: Mapping[str, Any]) -> pyarrow.Table:
        """Rows of a batch; a row `STOP` alone when its work raises."""
        try:
            rows: pyarrow.Table = self._segmenter(batch)
        except Exception as error:
            reason = f"the actors cannot go on: {type(error).__name__}: {error}"
            return pyarrow.Table.from_pylist([{"path": STOP, "error": reason}], self._schema)
        return rows


def guarded(work: Work, output_format: str) -> Work:
    """The same work by `Guarded` actors."""
    return replace(work, actor=Guarded, arguments=(work.actor, work.arguments, _schema(output_format)))


def rows_alone(pictures: Sequence[Picture], options: BulkOptions, work: Work) -> Iterator[pyarrow.Table]:
    """A row per picture, a table each, as they come. One that ends `options.attempts` processes is a row that says so.

    Args:
        work: guarded.

    Raises:
        ray.exceptions.RayError: an actor cannot be made.
    """
    import ray
    from ray.exceptions import RayError

    make: Any = ray.remote(work.actor).options(num_cpus=options.threads, num_gpus=options.gpus or None, max_restarts=0)
    waiting = deque((picture, 1) for picture in pictures)
    idle: list[Any] = []
    running: dict[Any, tuple[Any, Picture, int]] = {}
    while waiting or running:
        while waiting and len(running) < options.actors:
            if not idle:
                idle.append(make.remote(*work.arguments))
                ray.get(idle[-1].__ray_ready__.remote())  # an actor that cannot be made is no fault of a picture
            actor, (picture, attempt) = idle.pop(), waiting.popleft()
            running[actor.__call__.remote(_columns(picture))] = actor, picture, attempt
        done = ray.wait(list(running), num_returns=1)[0][0]
        actor, picture, attempt = running.pop(done)
        try:
            rows = ray.get(done)
        except RayError as error:
            if attempt < options.attempts:
                waiting.append((picture, attempt + 1))
                continue
            reason = f"its process ended at each of {attempt} attempts: {_last_line(error)}"
            rows = pyarrow.Table.from_pylist([{"path": picture.path, "error": reason}], _schema(options.output_format))
        else:
            idle.append(actor)
        yield rows


def _schema(output_format: str) -> pyarrow.Schema:
    return SCHEMA if output_format == "parquet" else WITH_FILES


def _columns(picture: Picture) -> dict[str, Any]:
    """A batch of one, as Ray Data makes them."""
    return {name: np.array([value], object if isinstance(value, str) else None) for name, value in picture._asdict().items()}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
