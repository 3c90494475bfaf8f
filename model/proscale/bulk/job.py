"""The job: pictures that are not done yet, through actors on Ray, into the output."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute

from proscale.bulk.coco import write_coco
from proscale.bulk.formats import check_output_format, check_places
from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.output import OutputFolder
from proscale.bulk.pictures import SCHEMA as PICTURES
from proscale.bulk.pictures import Picture
from proscale.bulk.rows import STOP
from proscale.bulk.segmenter import model_work
from proscale.bulk.suspects import guarded, rows_alone
from proscale.errors import DataError

INSTALL = "pip install 'proscale-segmentation-service[bulk]'"
MOST_BLOCKS = 10_000
"""Ray keeps a record of every block; with more pictures than so many batches, blocks grow."""


@dataclass
class Summary:
    """What became of a job so far."""

    total: int = 0
    """Pictures of INPUT."""
    pictures: int = 0
    """That were done now."""
    failed: int = 0
    """Of these."""
    done_before: int = 0
    failed_before: int = 0
    """Of these."""
    seconds: float = 0.0
    flops: int = 0
    baseline_flops: int = 0

    @property
    def share_failed(self) -> float:
        """Of all pictures that have a row, 0..1."""
        return (self.failed + self.failed_before) / max(1, self.pictures + self.done_before)

    @property
    def saved(self) -> float:
        """Share of the baseline's FLOPs that this run did without, 0..1."""
        return 1 - self.flops / self.baseline_flops if self.baseline_flops else 0.0


def segment(dataset: Any, options: BulkOptions, work: Work | None = None) -> Any:
    """A Ray dataset with a column `path` -> a dataset of `rows.SCHEMA`, lazily. Ray must be running."""
    from ray.data import ActorPoolStrategy

    work = model_work(options) if work is None else work
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ray_remote_args.* is deprecated")  # in this Ray retries have no other name
        return dataset.map_batches(
            work.actor,
            fn_constructor_args=work.arguments,
            batch_size=max(options.batch, work.batch),
            batch_format="numpy",
            compute=ActorPoolStrategy(size=options.actors),
            num_cpus=options.threads,
            num_gpus=options.gpus or None,
            # Ray Data's own is without end, and so would a picture be tried that ends its process. At least one: what lay on a lost machine
            # is made again by a retry.
            max_task_retries=max(1, options.attempts - 1),
        )


def run(
    pictures: Sequence[Picture],
    output: Path,
    options: BulkOptions,
    on_progress: Callable[[Summary], object] = lambda summary: None,
    work: Work | None = None,
) -> Summary:
    """Segment pictures into OUTPUT; those that have a row there already are left out.

    Args:
        on_progress: called with the figures so far; first with those of before.
        work: who segments; None: models in the actors.

    Raises:
        DataError: OUTPUT is another job's, there is no cluster at the address, or the actors cannot go on; what was done stays.
        ParameterError: an output format that cannot hold the tasks' results.
        OSError: OUTPUT cannot be written; what was done stays.
    """
    started, summary = time.perf_counter(), Summary(total=len(pictures))
    tasks = options.segmentation.tasks
    check_output_format(options.output_format, tasks)
    if options.output_format != "parquet":
        check_places([picture.path for picture in pictures])
    work = model_work(options) if work is None else work
    with OutputFolder(output, {**work.decides, "output_format": options.output_format}) as folder:
        done = folder.done()
        left = [picture for picture in pictures if picture.path not in done]
        summary.done_before = len(pictures) - len(left)
        summary.failed_before = sum(done.get(picture.path, False) for picture in pictures)
        on_progress(summary)
        if left:
            _start_ray(options)
            _stream(left, folder, options, work, summary, on_progress)
        if options.output_format == "coco":
            write_coco(output, folder.parts, tasks)
        summary.seconds = round(time.perf_counter() - started, 3)
        folder.summarise(asdict(summary))
    return summary


def _stream(
    left: Sequence[Picture],
    folder: OutputFolder,
    options: BulkOptions,
    work: Work,
    summary: Summary,
    on_progress: Callable[[Summary], object],
) -> None:
    from ray.exceptions import RayError

    waiting: list[pyarrow.Table] = []
    try:
        for rows in _rows(left, options, work):
            stopped = pyarrow.compute.equal(rows.column("path"), STOP)
            reasons = rows.filter(stopped).column("error").to_pylist()
            rows = rows.filter(pyarrow.compute.invert(stopped))
            waiting.append(rows)
            summary.pictures += rows.num_rows
            summary.failed += rows.num_rows - rows.column("error").null_count
            for name in ("flops", "baseline_flops"):
                setattr(summary, name, getattr(summary, name) + (pyarrow.compute.sum(rows.column(name)).as_py() or 0))
            if sum(each.num_rows for each in waiting) >= options.rows_per_file:
                # Taken out first: rows that cannot be written would fail again below, and hide why.
                full, waiting = pyarrow.concat_tables(waiting), []
                folder.add(full)
            on_progress(summary)
            if reasons:
                raise DataError(f"{reasons[0]}; what was done stays, and the same command goes on")
    except RayError as error:
        lines = str(error).strip().splitlines()
        raise DataError(f"the actors cannot go on: {lines[-1] if lines else error!r}; what was done stays") from error
    finally:
        if any(each.num_rows for each in waiting):  # also when the job is interrupted: what was done stays
            folder.add(pyarrow.concat_tables(waiting))


def _rows(left: Sequence[Picture], options: BulkOptions, work: Work) -> Iterator[pyarrow.Table]:
    """Rows of all pictures, as they come."""
    import ray.data

    # A block is what is done again when its actor is lost.
    size = max(options.batch, work.batch, -(-len(left) // MOST_BLOCKS))
    blocks = [_block(left[start : start + size]) for start in range(0, len(left), size)]
    missing, work = {picture.path: picture for picture in left}, guarded(work, options.output_format)
    for rows in segment(ray.data.from_arrow(blocks), options, work).iter_batches(batch_size=None, batch_format="pyarrow"):
        for path in rows.column("path").to_pylist():
            missing.pop(path, None)
        yield rows
    yield from rows_alone(list(missing.values()), options, work)


def _block(pictures: Sequence[Picture]) -> pyarrow.Table:
    return pyarrow.Table.from_arrays(
        [pyarrow.array(column, kind.type) for column, kind in zip(zip(*pictures, strict=True), PICTURES, strict=True)], schema=PICTURES
    )


def _start_ray(options: BulkOptions) -> None:
    _check_address(options.address)
    try:
        import ray
    except ImportError as error:
        raise DataError(f"bulk runs on Ray, which is not installed here: {INSTALL}") from error
    from ray.data import DataContext

    if not ray.is_initialized():
        try:
            if options.address is None:
                cpus = options.actors * options.threads + 1  # one for what Ray does around the actors
                # Ray reports its use to its authors unless told otherwise; whoever wants that sets it.
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                # "local": not some cluster that happens to run here.
                ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray's own is a bare one where the machine is too busy to start it in time
            what = "Ray does not start on this machine" if options.address is None else f"no Ray cluster answers at {options.address}"
            raise DataError(f"{what}: {error}; what was done stays") from error
    # Errors too: a page of them for every batch that is given up. Those that end the job are raised.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_errored_blocks = -1  # what is given up is missed by `_rows`


def _check_address(address: str | None) -> None:
    """Raise DataError when nobody listens at HOST:PORT: Ray would end this process without a word of ours."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise DataError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error
