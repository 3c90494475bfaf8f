"""The job: pictures that are not done yet, through actors on Ray, into the output."""

import hashlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow

from proscale.bulk.options import BulkOptions
from proscale.bulk.output import OutputFolder
from proscale.bulk.segmenter import SCHEMA, PictureSegmenter
from proscale.checkpoints.model_folder import DEFAULT_FOLDER
from proscale.errors import DataError

INSTALL = "pip install 'proscale-segmentation-service[bulk]'"


@dataclass
class Summary:
    """What became of a job."""

    pictures: int = 0
    """That were done now."""
    failed: int = 0
    done_before: int = 0
    seconds: float = 0.0
    flops: int = 0
    baseline_flops: int = 0


def segment(dataset: Any, options: BulkOptions) -> Any:
    """A Ray dataset with a column `path` -> a dataset of `SCHEMA`, lazily. Ray must be running."""
    from ray.data import ActorPoolStrategy

    return dataset.map_batches(
        PictureSegmenter,
        fn_constructor_args=(options.runtime, options.segmentation, options.tile, options.intensity, options.max_pixels),
        batch_size=options.batch,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=options.actors),
        num_cpus=options.threads,
        num_gpus=options.gpus or None,
    )


def run(
    paths: Sequence[str], output: Path, options: BulkOptions, on_rows: Callable[[int, int], object] = lambda done, failed: None
) -> Summary:
    """Segment pictures into OUTPUT; those that have a row there already are left out.

    Args:
        on_rows: called with numbers of pictures that are done, and of those that failed among them; first with those of before.

    Raises:
        DataError: OUTPUT is another job's, or there is no cluster at the address.
        OSError: OUTPUT cannot be written; what was done stays.
    """
    started, summary = time.perf_counter(), Summary()
    with OutputFolder(output, _decides(options)) as folder:
        done = folder.done()
        left = [path for path in paths if path not in done]
        summary.done_before = len(paths) - len(left)
        on_rows(summary.done_before, 0)
        if left:
            _start_ray(options)
            _stream(left, folder, options, summary, on_rows)
        summary.seconds = round(time.perf_counter() - started, 3)
        folder.summarise(asdict(summary))
    return summary


def _stream(
    left: Sequence[str], folder: OutputFolder, options: BulkOptions, summary: Summary, on_rows: Callable[[int, int], object]
) -> None:
    import ray.data

    # A block is what is done again when its actor is lost.
    blocks = [pyarrow.table({"path": list(left[start : start + options.batch])}) for start in range(0, len(left), options.batch)]
    dataset = ray.data.from_arrow(blocks)
    waiting: list[pyarrow.Table] = []
    try:
        for rows in segment(dataset, options).iter_batches(batch_size=None, batch_format="pyarrow"):
            waiting.append(rows.select(SCHEMA.names).cast(SCHEMA))
            failed = rows.num_rows - rows.column("error").null_count
            summary.pictures += rows.num_rows
            summary.failed += failed
            for name in ("flops", "baseline_flops"):
                setattr(summary, name, getattr(summary, name) + sum(rows.column(name).drop_null().to_pylist()))
            if sum(each.num_rows for each in waiting) >= options.rows_per_file:
                folder.add(pyarrow.concat_tables(waiting))
                waiting = []
            on_rows(rows.num_rows, failed)
    finally:
        if waiting:  # also when the job is interrupted: what was done stays
            folder.add(pyarrow.concat_tables(waiting))


def _start_ray(options: BulkOptions) -> None:
    try:
        import ray
    except ImportError as error:
        raise DataError(f"bulk runs on Ray, which is not installed here: {INSTALL}") from error
    from ray.data import DataContext

    if not ray.is_initialized():
        _check_address(options.address)
        try:
            if options.address is None:
                cpus = options.actors * options.threads + 1  # one for what Ray does around the actors
                ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DataError(f"no Ray cluster answers at {options.address}: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False


def _check_address(address: str | None) -> None:
    """Raise DataError when nobody listens at HOST:PORT: Ray would end this process without a word of ours."""
    host, _, port = (address or "").rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise DataError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


def _decides(options: BulkOptions) -> dict[str, Any]:
    """What decides the results of a job."""
    folder = Path(options.runtime.checkpoint or DEFAULT_FOLDER)
    digest = hashlib.sha256()
    for name in ("config.json", "labels.json", "model.safetensors"):
        if (file := folder / name).exists():
            digest.update(file.read_bytes())
    asked = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options.segmentation).items()}
    return {"model": digest.hexdigest(), "tile": options.tile, "intensity": options.intensity, "max_pixels": options.max_pixels} | asked
