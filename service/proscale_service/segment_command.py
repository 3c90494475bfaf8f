"""`proscale segment`: masks for picture files without a server; pictures are read by the same rules as over HTTP."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from proscale.allocator import keep_freed_memory
from proscale.config import PRECISIONS, TASKS, Precision, Task
from proscale.errors import ProscaleError
from proscale.overlay import draw_overlay
from proscale.pictures import read_picture
from proscale.results import Prediction, Segmentation, SegmentationOptions
from proscale_service.settings import Settings

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SHOWN_SEGMENTS = 20


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(TASKS), help="May be repeated. Default: panoptic, or what the model does."
)
@click.option("--overlay", type=click.Path(path_type=Path), help="Picture with the masks painted on; a folder when there are many files.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Segments as JSON with COCO RLE; a folder when there are many.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least score of a segment. Default: the model's own.")
@click.option("--mask-threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Least probability of a mask's pixel.")
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), help="Least share of its mask that a panoptic segment must keep.")
@click.option("--label", "labels", multiple=True, help="Keep only segments of this label. May be repeated.")
@click.option("--max-segments", type=click.IntRange(min=1), help="Keep only so many, the best.")
@click.option("--checkpoint", type=click.Path(), envvar="PROSCALE_CHECKPOINT", help="Model folder; default: the model inside the package.")
@click.option("--device", default="cpu", show_default=True, envvar="PROSCALE_DEVICE", help="cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    envvar="PROSCALE_PRECISION",
    help="Default: float32 on a CPU, bfloat16 on a GPU.",
)
def segment(
    files: tuple[Path, ...],
    tasks: tuple[Task, ...],
    overlay: Path | None,
    json_path: Path | None,
    checkpoint: str | None,
    device: str,
    precision: Precision | None,
    **parameters: Any,
) -> None:
    """Segment FILES, pictures or folders of pictures.

    One file: its segments are printed as a table. Many: a progress bar, and one output per file. A picture that cannot be read is
    reported and the others go on; the exit status is then 1.
    """
    from proscale.predictor import Predictor  # here: `--help` and mistakes in options should not wait for torch

    pictures = expand(files)
    many = len(pictures) > 1
    if overlay is not None and len(tasks) > 1:
        raise click.UsageError("--overlay shows one task; name one --task")
    if many and overlay is None and json_path is None:
        raise click.UsageError("many files need --json FOLDER or --overlay FOLDER to put the results in")
    if len({path.name for path in pictures}) < len(pictures):
        raise click.UsageError("two pictures have the same name and would be written to the same file; segment them in two runs")
    keep_freed_memory()
    try:
        predictor = Predictor.load(checkpoint, device=device, precision=precision)
        tasks = tasks or predictor.info.tasks[:1]
        options = SegmentationOptions(tasks=tasks, **parameters | {"labels": parameters["labels"] or None})
        predictor.check(options)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    failures, max_pixels = [], Settings.model_fields["max_pixels"].default
    outputs = [output_paths(path, many, overlay, json_path) for path in pictures]
    for path, (overlay_file, json_file) in tqdm(list(zip(pictures, outputs, strict=True)), unit="picture", disable=not many):
        try:
            image = read_picture(path.read_bytes(), max_pixels).rgb
            prediction = predictor.segment([image], [options])[0]
        except (ProscaleError, OSError) as error:
            failures.append(f"{path}: {error}")
            continue
        _write(image, prediction, tasks, overlay_file, json_file)
        if not many:
            for task in tasks:
                click.echo(segment_table(prediction.results[task]))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        click.echo(f"{len(pictures) - len(failures)} of {len(pictures)} pictures segmented", err=True)
        sys.exit(1)


def expand(files: Iterable[Path]) -> list[Path]:
    """Files as they are; folders replaced by the pictures directly inside, sorted.

    Raises:
        click.BadParameter: a folder holds no picture.
    """
    pictures: list[Path] = []
    for path in files:
        if not path.is_dir():
            pictures.append(path)
            continue
        inside = sorted(child for child in path.iterdir() if child.suffix.lower() in SUFFIXES)
        if not inside:
            raise click.BadParameter(f"{path} holds no picture ({', '.join(SUFFIXES)})")
        pictures += inside
    return pictures


def output_paths(path: Path, many: bool, overlay: Path | None, json_path: Path | None) -> tuple[Path | None, Path | None]:
    """Where a picture's overlay and JSON go: the names given, or inside them as folders when there are many pictures."""
    if not many:
        return overlay, json_path
    return overlay and overlay / f"{path.name}.png", json_path and json_path / f"{path.name}.json"


def segment_table(segmentation: Segmentation) -> str:
    """Segments as text, largest first."""
    lines = [
        f"{segmentation.task}: {len(segmentation.segments)} segments",
        f"{'id':>4}  {'label':<20}{'score':>6}{'area':>10}  bbox (x, y, w, h)",
    ]
    ordered = sorted(segmentation.segments, key=lambda segment: -segment.area)
    lines += [f"{s.id:>4}  {s.label:<20}{s.score:>6.2f}{s.area:>10}  {s.bbox}" for s in ordered[:SHOWN_SEGMENTS]]
    if len(ordered) > SHOWN_SEGMENTS:
        lines.append(f"      ... and {len(ordered) - SHOWN_SEGMENTS} smaller ones (--json has them all)")
    return "\n".join(lines)


def _write(image: Any, prediction: Prediction, tasks: Sequence[Task], overlay: Path | None, json_path: Path | None) -> None:
    if overlay is not None:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(draw_overlay(image, prediction.results[tasks[0]]))).save(overlay)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        results = {task: [asdict(segment) for segment in result.segments] for task, result in prediction.results.items()}
        plan = asdict(prediction.plan)
        json_path.write_text(json.dumps({"results": results, "compute": plan}) + "\n", encoding="utf-8")
