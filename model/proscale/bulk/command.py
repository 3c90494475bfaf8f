"""`proscale bulk`: folders of pictures into Parquet and other formats, on this machine or on a Ray cluster."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from proscale.bulk.options import BulkOptions, Work
from proscale.config import TASKS, Task
from proscale.errors import DataError, ProscaleError
from proscale.pictures import parse_intensity
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale.tiles import parse_tiling

if TYPE_CHECKING:
    from proscale.bulk.job import Summary

GROUP, GATEWAYS = "proscale.bulk", "gateways"
"""The entry point of what segments through services: the client lies above this package."""
INTERRUPTED = 130


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="INPUT...")
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), help="May be repeated. Default: panoptic.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Minimum score of a segment. Default: the model's own.")
@click.option("--label", "labels", multiple=True, help="Keep only segments of this label. May be repeated.")
@click.option("--max-segments", type=click.IntRange(min=1), help="Keep only the N segments of highest score per picture.")
@click.option(
    "--tile", default="off", show_default=True, help="Cut pictures into windows: off, auto, SIZE[,OVERLAP[,SCALE]] in pixels, or joint."
)
@click.option(
    "--intensity", default="full", show_default=True, help="Sample values of black and white: full, minmax, percentile or LOW,HIGH."
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=40_000_000,
    show_default=True,
    help="Largest picture in pixels; a larger one is an error.",
)
@click.option("--output-format", default="parquet", show_default=True, help="parquet; coco; or a file per picture: json, geojson ...")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Model folder. Default: the model in the package.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--address", help="Address of a Ray cluster, such as auto or ray://head:10001. Default: this machine.")
@click.option("--actors", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes, each with its own model.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs per actor.")
@click.option("--gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs per actor; a fraction is allowed.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures that an actor gets at once.")
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Times a picture may end its process; then: an error.",
)
@click.option("--service", help="Segment by these services, comma separated URLs of gateways, instead of by models in the actors.")
@click.option("--concurrency", type=click.IntRange(min=1), default=4, show_default=True, help="--service: pictures in flight per actor.")
@click.option("--api-key", envvar="PROSCALE_API_KEY", help="--service: key, where one is asked for. Better as PROSCALE_API_KEY.")
@click.option("--model", help="--service: which of the served models. Default: the first.")
@click.option("--patience", type=click.FloatRange(min=0), default=300.0, show_default=True, help="--service: seconds without any answer.")
@click.option("--rows-per-file", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows per Parquet file.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve metrics for Prometheus while the job runs; 0: any free port.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where: 0.0.0.0 lets other machines ask.")
@click.option(
    "--most-failed",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Largest share of failed pictures (0 to 1) with exit status 0.",
)
def bulk(
    sources: tuple[str, ...],
    output: Path,
    most_failed: float,
    metrics_port: int | None,
    metrics_host: str,
    service: str | None,
    concurrency: int,
    api_key: str | None,
    model: str | None,
    patience: float,
    **given: Any,
) -> None:
    """Segment all pictures of INPUT into Parquet files in the folder OUTPUT.

    INPUT: folders, pictures, patterns, tars, .txt files with a path per line, .parquet files with paths or bytes; or URIs of any of these.

    OUTPUT has a row per picture: its segments as COCO RLE, or its error. A job that was stopped goes on with the same command.
    """
    try:
        from proscale.bulk.formats import OUTPUT_FORMATS
        from proscale.bulk.listing import list_pictures
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise click.ClickException("bulk needs Ray: pip install 'proscale-segmentation-service[bulk]'") from error
    if given["output_format"] not in OUTPUT_FORMATS:
        raise click.UsageError(f"--output-format {given['output_format']} is none of {', '.join(OUTPUT_FORMATS)}")
    try:
        parse_tiling(given["tile"])
        parse_intensity(given["intensity"])
        pictures = list_pictures(sources)
        from proscale.bulk.job import run  # here: mistakes are said before anything large is imported

        options, work = _options(given), None
        if service is not None:
            work = _gateways()(service, options, api_key=api_key, concurrency=concurrency, model=model, patience_s=patience)
        with ExitStack() as stack:
            show = stack.enter_context(_Bar(len(pictures)))
            shown: list[Callable[[Summary], object]] = [show.show]
            if metrics_port is not None:
                shown.append(_metrics(stack, metrics_port, metrics_host))
            summary = run(pictures, output, options, lambda now: [each(now) for each in shown], work)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror or error}. The written files stay.") from error
    except KeyboardInterrupt:
        click.echo(f"Stopped; what was done stays in {output}, and the same command goes on", err=True)
        sys.exit(INTERRUPTED)
    _tell(summary, output, most_failed)


class _Bar:
    """Progress on standard error, with the time that is left; a context manager."""

    def __init__(self, total: int) -> None:
        self._bar: Any = tqdm(total=total, unit="picture", smoothing=0.05)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, summary: "Summary") -> None:
        """Move to the figures so far."""
        failed = summary.failed + summary.failed_before
        self._bar.set_postfix_str(f"{summary.saved:.0%} FLOPs saved" + (f", {failed} failed" if failed else ""), refresh=False)
        if not self._bar.n:
            self._bar.initial = summary.done_before  # they were not done at this pace
        self._bar.update(summary.done_before + summary.pictures - self._bar.n)


def _options(given: dict[str, Any]) -> BulkOptions:
    network = {name: given.pop(name) for name in ("threshold", "labels", "max_segments")}
    tasks: tuple[Task, ...] = tuple(dict.fromkeys(given.pop("tasks"))) or ("panoptic",)
    return BulkOptions(
        runtime=RuntimeConfig(checkpoint=given.pop("checkpoint"), device=given.pop("device"), threads=given["threads"]),
        segmentation=SegmentationOptions(tasks, **network | {"labels": network["labels"] or None}),
        **given,
    )


def _gateways() -> Callable[..., Work]:
    """What makes the work of --service."""
    points = entry_points(group=GROUP, name=GATEWAYS)
    if not points:
        raise DataError("--service needs the client, which this installation does not know of: pip install 'proscale-segmentation-service'")
    made: Callable[..., Work] = next(iter(points)).load()
    return made


def _metrics(stack: ExitStack, port: int, host: str) -> "Callable[[Summary], object]":
    try:
        from proscale.bulk.metrics import serving
    except ModuleNotFoundError as error:
        raise DataError("--metrics-port needs prometheus-client: pip install 'proscale-segmentation-service[bulk]'") from error
    metrics, bound = stack.enter_context(serving(port, host))
    tqdm.write(f"Metrics at http://{host}:{bound}/metrics", file=sys.stderr)
    return metrics.show


def _tell(summary: "Summary", output: Path, most_failed: float) -> None:
    """The last word, and the exit status."""
    rate = summary.pictures / summary.seconds if summary.seconds else 0.0
    click.echo(
        f"{summary.pictures} pictures in {summary.seconds:.0f} s ({rate:.1f} per second), {summary.failed} failed, "
        f"{summary.done_before} done before ({summary.failed_before} failed); {summary.saved:.0%} fewer FLOPs than the baseline"
    )
    if summary.share_failed > most_failed:
        failed = summary.failed + summary.failed_before
        click.echo(f"Error: {failed} of {summary.total} pictures failed; their rows in {output} say why", err=True)
        sys.exit(1)
