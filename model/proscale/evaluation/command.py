"""`proscale evaluate`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from proscale.allocator import keep_freed_memory
from proscale.config import PRECISIONS, Precision
from proscale.errors import ProscaleError
from proscale.evaluation.evaluate import evaluate as measure
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.training.coco_panoptic import CocoPanoptic
from proscale.training.sample import Sample
from proscale.training.scenes.painter import draw_scene

SCENE_SEED, SCENE_SIDE = 1_000_003, 320
"""Scenes of evaluation come from seeds that no training run draws."""


@click.command()
@click.option("--checkpoint", type=click.Path(), envvar="PROSCALE_CHECKPOINT", help="Model folder; default: the model inside the package.")
@click.option("--data", type=click.Path(path_type=Path), help="Data set: FOLDER/SPLIT, FOLDER/panoptic_SPLIT, FOLDER/panoptic_SPLIT.json.")
@click.option("--split", default="val", show_default=True)
@click.option("--scenes", type=click.IntRange(min=0), default=0, show_default=True, help="Measure on so many unseen drawn scenes instead.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Default: the model's own.")
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), help="Default: the model's own.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file as well.")
@click.option("--device", default="cpu", show_default=True, envvar="PROSCALE_DEVICE", help="cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    envvar="PROSCALE_PRECISION",
    help="Default: float32 on a CPU, bfloat16 on a GPU.",
)
def evaluate(
    checkpoint: str | None,
    data: Path | None,
    split: str,
    scenes: int,
    threshold: float | None,
    overlap_threshold: float | None,
    json_path: Path | None,
    device: str,
    precision: Precision | None,
) -> None:
    """Measure a model's panoptic results on annotated pictures, at its own thresholds unless others are named."""
    if (data is None) == (scenes == 0):
        raise click.UsageError("name either a data set with --data or a number of drawn scenes with --scenes")
    keep_freed_memory()
    options = SegmentationOptions(("panoptic",), threshold=threshold, overlap_threshold=overlap_threshold)
    try:
        predictor = Predictor.load(checkpoint, device=device, precision=precision)
        samples: Iterable[Sample]
        if data is not None:
            dataset = CocoPanoptic(data, split, predictor.categories)
            samples, total = (dataset[i] for i in range(len(dataset))), len(dataset)
        else:
            samples, total = (draw_scene([SCENE_SEED, i], SCENE_SIDE, predictor.categories) for i in range(scenes)), scenes
        report = measure(predictor, samples, total, options)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(report_table(report))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def report_table(report: dict[str, Any]) -> str:
    """The figures as text."""
    columns = ("pq", "iou", "iou_per_picture", "found", "precision")
    lines = [
        f"{report['pictures']} pictures: PQ {report['pq']:.3f}, things {report['pq_things']:.3f}, stuff {report['pq_stuff']:.3f}",
        f"{'class':<16}" + "".join(f"{name:>17}" for name in columns),
    ]
    for name, figures in report["classes"].items():
        lines.append(f"{name:<16}" + "".join(f"{figures[column]:>17.3f}" if column in figures else " " * 17 for column in columns))
    return "\n".join(lines)
