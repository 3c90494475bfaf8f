"""`proscale segment`: masks for picture files without a server; pictures are read by the same rules as over HTTP."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from pydantic import ValidationError
from tqdm import tqdm

from proscale.allocator import keep_freed_memory
from proscale.config import PRECISIONS, TASKS, Precision, Task
from proscale.errors import ParameterError, ProscaleError
from proscale.overlay import draw_overlay
from proscale.pictures import DecodedPicture, Intensity, parse_intensity, read_picture
from proscale.results import ModelInfo, Prediction, Segmentation, SegmentationOptions
from proscale_service.picture_files import PictureFile, find_pictures, is_folder, place
from proscale_service.settings import Settings, describe_invalid

SHOWN_SEGMENTS = 20
_WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def _understood(context: click.Context, option: click.Parameter, value: str) -> Intensity:
    try:
        return parse_intensity(value)
    except ParameterError as error:
        raise click.BadParameter(str(error), context, option) from error


@dataclass(frozen=True)
class _Output:
    """Where results of one kind go."""

    path: Path
    folder: bool
    suffix: str

    def of(self, picture: PictureFile) -> Path:
        return place(picture, self.path, self.folder, self.suffix)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(TASKS), help="May be repeated. Default: panoptic, or what the model does."
)
@click.option(
    "--overlay", help="Picture with the masks painted on; a folder when it ends with / or exists as one, or when FILES name a folder."
)
@click.option("--json", "json_path", help="Segments as JSON with COCO RLE; file or folder as for --overlay.")
@click.option("--recursive", is_flag=True, help="Look into the folders of folders, too; results keep the relative paths.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least score of a segment. Default: the model's own.")
@click.option("--mask-threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Least probability of a mask's pixel.")
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), help="Least share of its mask that a panoptic segment must keep.")
@click.option("--label", "labels", multiple=True, help="Keep only segments of this label. May be repeated.")
@click.option("--max-segments", type=click.IntRange(min=1), help="Keep only so many, the best.")
@click.option(
    "--intensity",
    default="full",
    show_default=True,
    callback=_understood,
    help="Which samples are black and white: full, minmax, percentile or LOW,HIGH.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Model folder; default: the model inside the package.")
@click.option("--device", help="cpu, cuda or cuda:N. Default: cpu.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Default: float32 on a CPU, bfloat16 on a GPU.")
def segment(
    files: tuple[Path, ...],
    tasks: tuple[Task, ...],
    overlay: str | None,
    json_path: str | None,
    recursive: bool,
    intensity: Intensity,
    checkpoint: Path | None,
    device: str | None,
    precision: Precision | None,
    **parameters: Any,
) -> None:
    """Segment FILES, pictures or folders of pictures.

    One picture: its segments are printed as a table. Several: a progress bar, and one output per picture. A picture that cannot be
    read is reported and the others go on; the exit status is then 1.

    Settings of the model and PROSCALE_MAX_PIXELS come from the environment, as for `proscale serve`; options win.
    """
    settings = _settings({"checkpoint": checkpoint, "device": device, "precision": precision})
    outputs = [
        _Output(Path(text), is_folder(Path(text), text, files), suffix)
        for text, suffix in ((overlay, ".png"), (json_path, ".json"))
        if text is not None
    ]
    pictures = find_pictures(files, recursive, [output.path for output in outputs if output.folder])
    _check_outputs(pictures, outputs, tasks)
    from proscale.loading import load_predictor  # here: `--help` and mistakes in options should not wait for torch

    keep_freed_memory()
    try:
        predictor = load_predictor(settings.runtime)
        tasks = tuple(dict.fromkeys(tasks)) or predictor.info.tasks[:1]
        options = SegmentationOptions(tasks=tasks, **parameters | {"labels": parameters["labels"] or None})
        predictor.check(options)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    failures, many = [], len(pictures) > 1
    for picture in tqdm(pictures, unit="picture", disable=not many):
        try:
            started = time.perf_counter()
            decoded = read_picture(picture.path.read_bytes(), settings.max_pixels, intensity)
            seconds = time.perf_counter() - started
            prediction = predictor.segment([decoded.rgb], [options])[0]
        except (ProscaleError, OSError) as error:
            failures.append(f"{picture.path}: {_reason(error)}")
            continue
        for warning in decoded.warnings:
            tqdm.write(f"Warning: {picture.path}: {warning}", file=sys.stderr)
        try:
            for output in outputs:
                _write(output, picture, decoded, prediction, predictor.info, seconds)
        except OSError as error:
            raise click.ClickException(f"the results of {picture.path} cannot be written: {_reason(error)}") from error
        if not many:
            for task in tasks:
                click.echo(segment_table(prediction.results[task]))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        click.echo(f"{len(pictures) - len(failures)} of {len(pictures)} pictures segmented", err=True)
        sys.exit(1)


def _settings(options: Mapping[str, Any]) -> Settings:
    """Settings of the environment and of options that were given."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise click.ClickException(describe_invalid(error, given)) from error


def _check_outputs(pictures: Sequence[PictureFile], outputs: Sequence[_Output], tasks: Sequence[Task]) -> None:
    """Raise UsageError for results that have no place of their own."""
    if any(output.suffix == ".png" for output in outputs) and len(set(tasks)) > 1:
        raise click.UsageError("--overlay shows one task; name one --task")
    if len(pictures) > 1 and not outputs:
        raise click.UsageError("many files need --json FOLDER or --overlay FOLDER to put the results in")
    for output in outputs:
        option = "--overlay" if output.suffix == ".png" else "--json"
        if not output.folder and len(pictures) > 1:
            raise click.UsageError(f"{option} {output.path} is one file, and there are {len(pictures)} pictures; a folder ends with /")
        if not output.folder and output.suffix == ".png" and output.path.suffix.lower() not in _WRITTEN:
            raise click.UsageError(f"{option} {output.path} should end with {', '.join(_WRITTEN)}, or with / for a folder")
        if output.folder and output.path.exists() and not output.path.is_dir():
            raise click.UsageError(f"{option} {output.path} is to be a folder, but is a file")
    names = [picture.name for picture in pictures]
    if any(output.folder for output in outputs) and (twice := sorted({str(name) for name in names if names.count(name) > 1})):
        raise click.UsageError(
            f"two pictures have the same name ({twice[0]}) and would be written to the same file; segment them in two runs, or name "
            "the folder that holds both with --recursive"
        )


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


def _write(output: _Output, picture: PictureFile, decoded: DecodedPicture, prediction: Prediction, info: ModelInfo, seconds: float) -> None:
    path = output.of(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        first = next(iter(prediction.results.values()))
        Image.fromarray(np.asarray(draw_overlay(decoded.rgb, first))).save(path)
        return
    from proscale_service.engines.base import Computed
    from proscale_service.pipeline import SegmentedPicture
    from proscale_service.rendering import segment_response

    done = SegmentedPicture(decoded.header, Computed(prediction, info, 1, 0.0), seconds, decoded.warnings)
    answer = segment_response(done, os.fspath(picture.path)).model_dump(mode="json", exclude_none=True)
    # Here every task has its entry, also a single one, so that scripts need not tell the cases apart.
    single = {answer.pop("task"): {"segments": answer.pop("segments")}} if "task" in answer else {}
    answer["results"] = {task: result["segments"] for task, result in (single or answer["results"]).items()}
    path.write_text(json.dumps(answer) + "\n", encoding="utf-8")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
