"""`proscale reproduce`."""

import shutil
from pathlib import Path

import click

from proscale.checkpoints.published_models import PublishedModel
from proscale.config import PRECISIONS, Precision
from proscale.datasets import open_dataset
from proscale.errors import CheckpointError, ProscaleError
from proscale.evaluation.command import Asked, open_source
from proscale.evaluation.report import report_table, write_report
from proscale.evaluation.reproduce import DATA_GB, SPLITS, compare, disk_needed, fetch_file, find_model, steps


@click.command()
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Data set of the published figures.")
@click.option("--split", help="[default: the validation split]")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("reproduced"), show_default=True, help="Folder for the model and the figures."
)
@click.option("--weights", type=click.Path(exists=True), help="The checkpoint, if it is downloaded already.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.1, show_default=True, help="Largest difference in points that passes.")
@click.option("--limit", type=click.IntRange(min=1), help="Evaluate the first N pictures only: figures will differ.")
@click.option("--device", default="cpu", show_default=True, envvar="PROSCALE_DEVICE", help="cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True)
@click.option("--dry-run", is_flag=True, help="Print the commands and the disk space they need, and do nothing.")
def reproduce(
    name: str,
    data: Path,
    split: str | None,
    out: Path,
    weights: str | None,
    tolerance: float,
    limit: int | None,
    device: str,
    precision: Precision,
    dry_run: bool,
) -> None:
    """Download the published model NAME, convert it, evaluate it, and compare with its authors' figures.

    NAME is one of `proscale models`, or its repository on the hub. Exit status 0: every figure passes; 1: one does not.
    """
    try:
        model = find_model(name)
        _announce(model, data, out)
        if dry_run:
            return
        from proscale.evaluation.evaluate import evaluate  # here and below: `--help` and --dry-run need no torch

        dataset = open_dataset(data, split)
        _check_disk(model, out)
        folder = _converted(model, out, weights)
        source, match = open_source(dataset, Asked(checkpoint=str(folder), device=device, precision=precision))
        for note in (*dataset.notes, *match.notes):
            click.echo(f"note: {note}", err=True)
        report = evaluate(dataset, source, match.judged, boundary=False, limit=limit)
        write_report(out / f"{model.slug}.json", {"model": model.name, "notes": [*dataset.notes, *match.notes]} | report)
        rows = compare(model, report, tolerance)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(report_table(report).split("\n\n")[0])
    click.echo(f"\n{'metric':<8}{'published':>11}{'measured':>11}  verdict")
    for row in rows:
        measured = "-" if row.measured is None else f"{row.measured:.2f}"
        click.echo(f"{row.metric:<8}{row.published:>11.2f}{measured:>11}  {row.verdict}")
    judged = [row for row in rows if row.verdict in ("pass", "fail")]
    if not judged or any(row.verdict == "fail" for row in judged):
        click.echo(f"{model.name}: not reproduced")
        raise SystemExit(1)
    click.echo(f"{model.name}: reproduced")


def _announce(model: PublishedModel, data: Path, out: Path) -> None:
    click.echo(f"{model.name} ({model.licence}); figures from {model.reference}")
    for command in steps(model, data, out):
        click.echo(f"    {command}")
    disk, pictures, split = disk_needed(model) / 1e9, DATA_GB.get(model.dataset), SPLITS.get(model.dataset, "val")
    click.echo(f"disk: {disk:.1f} GB for the model, about {pictures} GB for {model.dataset} {split} where it is not here")


def _check_disk(model: PublishedModel, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < disk_needed(model):
        raise CheckpointError(
            f"{out} has {free / 1e9:.1f} GB free; {disk_needed(model) / 1e9:.1f} GB are needed. Name another place with --out."
        )


def _converted(model: PublishedModel, out: Path, weights: str | None) -> Path:
    """The model as a folder of ours."""
    if weights is None and model.hub is not None:
        weights = f"hf:{model.hub}"
    elif weights is None and model.file is not None:
        weights = str(fetch_file(model.file, out / model.file.rsplit("/", 1)[1]))
    elif weights is None:
        raise CheckpointError(f"{model.name} is only available from its authors ({model.reference}); get it there and give --weights FILE")

    from proscale.checkpoints.convert import Request, convert
    from proscale.checkpoints.write_folders import write

    converted = convert(weights, Request(labels=model.labels, task=model.task, name=model.name))
    for note in converted.notes:
        click.echo(f"  {note}", err=True)
    write(converted, out / model.slug)
    return out / model.slug
