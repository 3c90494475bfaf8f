"""`proscale evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from proscale.allocator import keep_freed_memory
from proscale.config import PRECISIONS, Precision
from proscale.datasets import Dataset, open_dataset
from proscale.errors import ProscaleError
from proscale.evaluation.class_matching import ClassMatch, match_classes, read_mapping
from proscale.evaluation.drawn_scenes import drawn_scenes
from proscale.evaluation.extremes import Judged, choose_extremes, draw_extremes
from proscale.evaluation.from_files import FileSource
from proscale.evaluation.from_service import Service, ServiceSource
from proscale.evaluation.predicted import Source
from proscale.evaluation.report import report_table, write_report


@dataclass(frozen=True)
class Asked:
    """Where results come from, as the user says; exactly one of the first three, or none for the embedded model."""

    checkpoint: str | None = None
    url: str | None = None
    model: str | None = None
    predictions: Path | None = None
    prediction_offset: int | None = None
    mapping: Mapping[str, str] | None = None
    threshold: float | None = None
    overlap_threshold: float | None = None
    device: str = "cpu"
    precision: Precision | None = None
    api_key: str | None = None
    concurrency: int = 4


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data set: its folder as downloaded, or an annotation JSON.")
@click.option("--split", help="val, train, or what the data set calls it.  [default: val]")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures, if they are not beside the annotation.")
@click.option("--labels", type=click.Path(path_type=Path), help="File of class names, for a plain folder of PNGs.")
@click.option("--reduce-labels", is_flag=True, help="Plain folder of PNGs: 0 is void, and class k is stored as k + 1.")
@click.option("--ignore-index", type=int, default=255, show_default=True, help="Plain folder of PNGs: the value of void.")
@click.option("--scenes", type=click.IntRange(min=0), default=0, help="Evaluate on this many unseen drawn scenes instead of --data.")
@click.option("--checkpoint", type=click.Path(), envvar="PROSCALE_CHECKPOINT", help="Model folder. Default: the model in the package.")
@click.option("--url", help="Evaluate a running service over HTTP, such as http://127.0.0.1:8000.")
@click.option("--api-key", envvar=["PROSCALE_API_KEY", "PROSCALE_CLIENT_KEY"], help="API key for --url, or PROSCALE_API_KEY.")
@click.option("--model", help="Model of --url. Default: its first.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Number of parallel requests to --url.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Evaluate predictions in files: a COCO panoptic JSON with its folder of PNGs, a COCO results JSON, or a folder of semantic PNGs.",
)
@click.option(
    "--prediction-offset", type=int, help="Value in semantic PNGs of --predictions minus category id.  [default: as in the data set]"
)
@click.option("--mapping", type=click.Path(path_type=Path), help='Names that differ: a JSON object {"model name": "data name"}.')
@click.option("--threshold", type=click.FloatRange(0, 1), help="For panoptic results. Default: the model's own.")
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), help="For panoptic results. Default: the model's own.")
@click.option("--limit", type=click.IntRange(min=1), help="Evaluate the first N pictures only.")
@click.option("--no-boundary", is_flag=True, help="Do not compute boundary IoU.")
@click.option(
    "--pictures",
    "pictures_path",
    type=click.Path(path_type=Path),
    help="Draw the best, median and worst picture by PQ into this folder: picture, ground truth, prediction.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures to this JSON file.")
@click.option("--device", default="cpu", show_default=True, envvar="PROSCALE_DEVICE", help="cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    envvar="PROSCALE_PRECISION",
    help="Default: float32 on a CPU, bfloat16 on a GPU.",
)
def evaluate(
    data: Path | None,
    split: str | None,
    images: Path | None,
    labels: Path | None,
    reduce_labels: bool,
    ignore_index: int,
    scenes: int,
    url: str | None,
    predictions: Path | None,
    mapping: Path | None,
    limit: int | None,
    no_boundary: bool,
    pictures_path: Path | None,
    json_path: Path | None,
    **rest: Any,
) -> None:
    """Measure PQ, AP, mIoU, boundary IoU, cost and speed on an annotated data set.

    The data set may be COCO, ADE20K, Cityscapes or Mapillary Vistas as downloaded, a COCO JSON, or folders of pictures and PNGs.
    Results come from a model (--checkpoint), a running service (--url) or files of any tool (--predictions).

    \b
    proscale evaluate --data coco --checkpoint coco-swin-t
    proscale evaluate --data ADEChallengeData2016 --url http://127.0.0.1:8000
    proscale evaluate --data cityscapes --predictions results/ --json figures.json --pictures pictures/
    """
    from proscale.evaluation.evaluate import evaluate as measure  # here: it needs the extra `model`

    if (data is None) == (scenes == 0):
        raise click.UsageError("name either a data set with --data or a number of drawn scenes with --scenes")
    checkpoint_named = click.get_current_context().get_parameter_source("checkpoint") is click.core.ParameterSource.COMMANDLINE
    if (url is not None) + (predictions is not None) + checkpoint_named > 1:
        raise click.UsageError("name one of --checkpoint, --url and --predictions")
    try:
        asked = Asked(url=url, predictions=predictions, mapping=None if mapping is None else read_mapping(mapping), **rest)
        dataset = (
            drawn_scenes(scenes)
            if data is None
            else open_dataset(data, split, images=images, labels=labels, reduce_labels=reduce_labels, ignore_index=ignore_index)
        )
        click.echo(f"{dataset.layout}, split {dataset.split}: {len(dataset.pictures)} pictures", err=True)
        source, match = open_source(dataset, asked)
        notes = (*dataset.notes, *match.notes)
        for note in notes:
            click.echo(f"note: {note}", err=True)
        judged: list[Judged] = []
        report = measure(
            dataset,
            source,
            match.judged,
            boundary=not no_boundary,
            limit=limit,
            on_picture=lambda quality, picture: judged.append((quality, picture)),
        )
        report = {"layout": dataset.layout, "split": dataset.split, "notes": list(notes)} | report
        if json_path is not None:
            write_report(json_path, report)
        click.echo(report_table(report))
        if pictures_path is not None:
            for name, file in draw_extremes(source, match.judged, judged, pictures_path).items():
                quality, picture = choose_extremes(judged)[name]
                click.echo(f"{file}: {name} by PQ, {picture.name}, {100 * quality:.2f}")
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error


def open_source(dataset: Dataset, asked: Asked) -> tuple[Source, ClassMatch]:
    """The source of results, and which categories it can be judged on.

    Raises:
        ProscaleError: model, service or files cannot be used, or have no class in common with the data set.
    """
    if asked.predictions is not None:
        everything = ClassMatch(dataset.categories, {c.id: c.id for c in dataset.categories}, (), ())
        return FileSource(asked.predictions, dataset, asked.prediction_offset), everything
    if asked.url is not None:
        service = Service(asked.url, asked.api_key, asked.model)
        if (context := click.get_current_context(silent=True)) is not None:
            context.call_on_close(service.close)
        match = match_classes(service.categories, dataset.categories, asked.mapping)
        named = {"threshold": asked.threshold, "overlap_threshold": asked.overlap_threshold}
        parameters = {name: value for name, value in named.items() if value is not None}
        return ServiceSource(service, match, asked.concurrency, parameters), match
    from proscale.evaluation.from_model import ModelSource  # here: a service or files are evaluated without torch
    from proscale.predictor import Predictor  # here: `--help` and judging files should not wait for torch

    keep_freed_memory()
    predictor = Predictor.load(asked.checkpoint, device=asked.device, precision=asked.precision)
    match = match_classes(predictor.categories, dataset.categories, asked.mapping)
    return ModelSource(predictor, match, asked.threshold, asked.overlap_threshold), match
