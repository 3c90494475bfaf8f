"""`proscale bulk`: folders of pictures into Parquet, on this machine or on a Ray cluster."""

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from proscale.bulk.options import BulkOptions
from proscale.config import TASKS, Task
from proscale.errors import ProscaleError
from proscale.pictures import parse_intensity
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale.tiles import parse_tiling


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
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Model folder. Default: the model in the package.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--address", help="Address of a Ray cluster, such as auto or ray://head:10001. Default: this machine.")
@click.option("--actors", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes, each with its own model.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs per actor.")
@click.option("--gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs per actor; a fraction is allowed.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures that an actor gets at once.")
@click.option("--rows-per-file", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows per Parquet file.")
@click.option(
    "--most-failed",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Largest share of failed pictures (0 to 1) with exit status 0.",
)
def bulk(sources: tuple[str, ...], output: Path, tasks: tuple[Task, ...], most_failed: float, **given: Any) -> None:
    """Segment all pictures of INPUT into Parquet files in the folder OUTPUT.

    INPUT: folders, pictures, patterns, .txt files with a path per line, .parquet files with a column `path`, URIs of object stores.

    OUTPUT has a row per picture: its segments as COCO RLE, or its error. A job that was stopped goes on with the same command.
    """
    try:
        from proscale.bulk.job import run
        from proscale.bulk.listing import list_pictures
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise click.ClickException("bulk needs Ray: pip install 'proscale-segmentation-service[bulk]'") from error
    try:
        parse_tiling(given["tile"])
        parse_intensity(given["intensity"])
        paths = list_pictures(sources)
        network = {name: given.pop(name) for name in ("threshold", "labels", "max_segments")}
        options = BulkOptions(
            runtime=RuntimeConfig(checkpoint=given.pop("checkpoint"), device=given.pop("device"), threads=given["threads"]),
            segmentation=SegmentationOptions(
                tuple(dict.fromkeys(tasks)) or ("panoptic",), **network | {"labels": network["labels"] or None}
            ),
            **given,
        )
        with tqdm(total=len(paths), unit="picture", smoothing=0.05) as bar:
            failed = 0

            def show(rows: int, failures: int) -> None:
                nonlocal failed
                failed += failures
                bar.set_postfix_str(f"{failed} failed" if failed else "")
                bar.update(rows)

            summary = run(paths, output, options, show)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror or error}. The written files stay.") from error
    saved = 1 - summary.flops / summary.baseline_flops if summary.baseline_flops else 0.0
    rate = summary.pictures / summary.seconds if summary.seconds else 0.0
    click.echo(
        f"{summary.pictures} pictures in {summary.seconds:.0f} s ({rate:.1f} per second), {summary.failed} failed, "
        f"{summary.done_before} done before; {saved:.0%} fewer FLOPs than the baseline"
    )
    if summary.failed > most_failed * max(1, summary.pictures):
        click.echo(f"Error: {summary.failed} of {summary.pictures} pictures failed; their rows in {output} say why", err=True)
        sys.exit(1)
