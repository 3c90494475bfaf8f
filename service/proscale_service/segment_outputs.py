"""What `proscale segment` writes for a picture: an overlay, JSON, files of other formats; and the options that say so."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import numpy as np
from PIL import Image

from proscale.config import Task
from proscale.overlay import draw_overlay
from proscale.pictures import DecodedPicture
from proscale.results import ModelInfo, Prediction
from proscale_service.errors import InvalidParameter
from proscale_service.picture_files import PictureFile, place
from proscale_service.requests import FormatName, PictureParameters, parse_parameters

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--format", "format", multiple=True, type=click.Choice([*get_args(FormatName), "parquet"]), help="Format of --out. May be repeated."
    ),
    click.option("--simplify", type=float, help="geojson: tolerance in pixels. Default: 0, exact along pixel edges."),
    click.option("--affine", help="geojson: six numbers a,b,c,d,e,f for map coordinates, x' = a x + b y + c, y' = d x + e y + f."),
    click.option("--opacity", type=click.FloatRange(0, 1), help="Overlays of --format: opacity of the colours, 0 to 1."),
    click.option("--outlines/--no-outlines", default=True, help="Overlays of --format: draw outlines."),
    click.option("--names/--no-names", default=True, help="Overlays of --format: write labels and scores."),
    click.option("--min-area", type=click.IntRange(min=0), help="Drop segments of fewer pixels than this."),
    click.option("--fill-holes", type=click.IntRange(min=0), help="Fill holes of at most this many pixels."),
    click.option("--largest-piece", is_flag=True, help="Keep only the largest connected piece of every thing."),
    click.option("--deduplicate", type=float, help="Drop an instance whose IoU with an instance of higher score is above this."),
    click.option("--merge-labels", multiple=True, help="Replace several labels by one: vehicle=car|truck. May be repeated."),
)
"""Options with the names, ranges and meanings that the parameters of POST /segment have."""


@dataclass(frozen=True)
class Output:
    """Where results of one kind go."""

    path: Path
    folder: bool
    suffix: str
    option: str = ""

    def of(self, picture: PictureFile) -> Path:
        """Where a picture's result goes."""
        return place(picture, self.path, self.folder, self.suffix)


@dataclass(frozen=True)
class Done:
    """One picture after the network and cleaning."""

    picture: PictureFile
    decoded: DecodedPicture
    prediction: Prediction
    response: Any
    """`responses.SegmentResponse`."""


def answer_options(command: F) -> F:
    """Add `OPTIONS` to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def answer_parameters(given: dict[str, Any], tasks: Sequence[Task]) -> PictureParameters:
    """What the options ask for.

    Raises:
        click.ClickException: a value out of its range, or a format that cannot hold a task's results.
    """
    from proscale_service.answer_files import check_formats

    try:
        chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value not in (None, ())}
        if "format" in chosen:  # parquet is a file on a disk alone
            chosen["format"] = [name for name in chosen["format"] if name != "parquet"] or ["json"]
        parameters = parse_parameters(PictureParameters, chosen)
        check_formats(parameters.format, tasks)
    except InvalidParameter as error:
        raise click.ClickException(error.detail) from error
    return parameters


def finish(
    picture: PictureFile, decoded: DecodedPicture, prediction: Prediction, info: ModelInfo, seconds: float, parameters: PictureParameters
) -> Done:
    """Clean the segments and say it all in the words of POST /segment. Args: seconds: of decoding."""
    from proscale_service.engines.base import Computed
    from proscale_service.pipeline import SegmentedPicture
    from proscale_service.rendering import cleaned, segment_response

    found = SegmentedPicture(decoded.header, Computed(prediction, info, 1, 0.0), seconds, decoded.warnings)
    found, cleaning = cleaned(found, parameters)
    return Done(picture, decoded, found.computed.prediction, segment_response(found, os.fspath(picture.path), cleaning))


def write(output: Output, done: Done, parameters: PictureParameters, formats: Sequence[str]) -> None:
    """Write one kind of result. Args: formats: of `--out`. Raises OSError."""
    if output.option == "--out":
        _write_files(output, done, parameters, formats)
        return
    path = output.of(done.picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        first = next(iter(done.prediction.results.values()))
        Image.fromarray(np.asarray(draw_overlay(done.decoded.rgb, first))).save(path)
        return
    path.write_text(json.dumps(results_of(done.response)) + "\n", encoding="utf-8")


def results_of(response: Any) -> dict[str, Any]:
    """An answer as `--json` has it. Args: response: `responses.SegmentResponse`."""
    answer: dict[str, Any] = response.model_dump(mode="json")
    # Here every task has its entry, also a single one, so that scripts need not tell the cases apart.
    single = {answer.pop("task"): {"segments": answer.pop("segments")}} if "task" in answer else {}
    answer["results"] = {task: result["segments"] for task, result in (single or answer["results"]).items()}
    return answer


def _write_files(output: Output, done: Done, parameters: PictureParameters, formats: Sequence[str]) -> None:
    """The files of all formats: PICTURE.TASK... in the folder; JSON as the service answers it."""
    from proscale_service.answer_files import format_options, make_files

    place_of = output.of(done.picture)
    options = replace(format_options(parameters, done.picture.name.as_posix()), prefix=f"{place_of.name}.")
    files = make_files(tuple(done.prediction.results.values()), formats, options, lambda: done.decoded.rgb)
    if "json" in formats:
        place_of.parent.mkdir(parents=True, exist_ok=True)
        place_of.with_name(f"{place_of.name}.json").write_text(done.response.model_dump_json() + "\n", encoding="utf-8")
    for file in files:
        path = place_of.parent / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
