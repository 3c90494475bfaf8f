"""`proscale segment`: masks for picture files without a server; pictures are read by the same rules as over HTTP."""

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError
from tqdm import tqdm

from proscale.allocator import keep_freed_memory
from proscale.config import PRECISIONS, TASKS, Precision, Task
from proscale.errors import ParameterError, ProscaleError
from proscale.pictures import DecodedPicture, Intensity, parse_intensity, read_picture
from proscale.results import Prediction, Segmentation, SegmentationOptions
from proscale.tiles import Tiling, lay_out, parse_tiling, segment_picture
from proscale_service.errors import InvalidParameter
from proscale_service.large_files import check_large, is_large, large_outputs, segment_large_file, write_parquet
from proscale_service.options import cleaning_of
from proscale_service.picture_files import PictureFile, find_pictures, is_folder
from proscale_service.segment_outputs import Output, answer_options, answer_parameters, finish, write
from proscale_service.settings import Settings, describe_invalid

if TYPE_CHECKING:
    from proscale.predictor import Predictor

SHOWN_SEGMENTS = 20
_WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def _understood(context: click.Context, option: click.Parameter, value: str) -> Intensity:
    try:
        return parse_intensity(value)
    except ParameterError as error:
        raise click.BadParameter(str(error), context, option) from error


def _tiling(context: click.Context, option: click.Parameter, value: str) -> Tiling:
    try:
        return parse_tiling(value)
    except ParameterError as error:
        raise click.BadParameter(str(error).removeprefix("tile: "), context, option) from error


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(TASKS), help="May be repeated. Default: panoptic, or the model's only task."
)
@click.option(
    "--overlay",
    help="Write the picture with its masks to this file. It is a folder if it ends with /, exists as a folder, or FILES name a folder.",
)
@click.option("--json", "json_path", help="Write the segments as JSON with COCO RLE; file or folder as for --overlay.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the files of all --format options.")
@answer_options
@click.option("--recursive", is_flag=True, help="Also read the folders inside folders; results keep the relative paths.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Minimum score of a segment. Default: the model's own.")
@click.option(
    "--mask-threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Minimum probability of a pixel in a mask."
)
@click.option("--overlap-threshold", type=click.FloatRange(0, 1), help="Minimum share of its mask that a panoptic segment must keep.")
@click.option("--label", "labels", multiple=True, help="Keep only segments of this label. May be repeated.")
@click.option("--max-segments", type=click.IntRange(min=1), help="Keep only the N segments of highest score.")
@click.option(
    "--intensity",
    default="full",
    show_default=True,
    callback=_understood,
    help="Sample values of black and white: full, minmax, percentile or LOW,HIGH.",
)
@click.option(
    "--tile",
    default="off",
    show_default=True,
    callback=_tiling,
    help="Cut pictures into windows: off, auto (if the picture would be shrunk to less than half), SIZE[,OVERLAP[,SCALE]] in pixels, or "
    "joint (windows in the backbone only).",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Model folder. Default: the model in the package.")
@click.option("--device", help="cpu, cuda or cuda:N. Default: cpu.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Default: float32 on a CPU, bfloat16 on a GPU.")
def segment(
    files: tuple[Path, ...],
    tasks: tuple[Task, ...],
    overlay: str | None,
    json_path: str | None,
    out: Path | None,
    recursive: bool,
    intensity: Intensity,
    tile: Tiling,
    checkpoint: Path | None,
    device: str | None,
    precision: Precision | None,
    **parameters: Any,
) -> None:
    """Segment FILES, pictures or folders of pictures.

    For one picture the segments are printed as a table. For several there is a progress bar, and one output per picture. A picture that
    cannot be read is reported, the others continue, and the exit status is 1.

    PROSCALE_MAX_PIXELS and the model's settings are read from the environment, as by `proscale serve`. Options override them.
    """
    network = {name: parameters.pop(name) for name in ("threshold", "mask_threshold", "overlap_threshold", "labels", "max_segments")}
    settings = _settings({"checkpoint": checkpoint, "device": device, "precision": precision})
    outputs = [
        Output(Path(text), is_folder(Path(text), text, files), suffix, option)
        for text, suffix, option in ((overlay, ".png", "--overlay"), (json_path, ".json", "--json"))
        if text is not None
    ]
    if (out is None) != (not parameters["format"]):
        raise click.UsageError("--format and --out belong together: --format geojson --out FOLDER")
    if out is not None:
        outputs.append(Output(out, True, "", "--out"))
    answer_parameters(parameters, tasks)  # what is wrong is said before torch is imported
    pictures = find_pictures(files, recursive, [output.path for output in outputs if output.folder])
    _check_outputs(pictures, outputs, tasks)
    from proscale.loading import load_predictor  # here: `--help` and mistakes in options should not wait for torch

    keep_freed_memory()
    try:
        predictor = load_predictor(settings.runtime)
        tasks = tuple(dict.fromkeys(tasks)) or predictor.info.tasks[:1]
        options = SegmentationOptions(
            tasks=tasks, confidence="confidence_png" in parameters["format"], **network | {"labels": network["labels"] or None}
        )
        predictor.check(options)
        asked = answer_parameters(parameters, tasks)
        cleaning_of(asked, predictor.info)  # labels that the model lacks are told before anything is computed
    except (ProscaleError, InvalidParameter) as error:
        raise click.ClickException(str(error)) from error
    failures, many, formats = [], len(pictures) > 1, parameters["format"]
    for picture in tqdm(pictures, unit="picture", disable=not many):
        try:
            if tile.kind != "off" and is_large(picture.path, settings.max_pixels):
                check_large([*formats, *(each.option for each in outputs if each.option != "--out")], asked.cleaning)
                places = large_outputs(picture, outputs, formats)
                for line in segment_large_file(predictor, picture, options, tile, intensity, asked, places):
                    tqdm.write(line)
                continue
            started = time.perf_counter()
            decoded = read_picture(picture.path.read_bytes(), settings.max_pixels, intensity)
            seconds = time.perf_counter() - started
            prediction = _segment(predictor, decoded, options, tile, show=not many)
        except (ProscaleError, OSError) as error:
            failures.append(f"{picture.path}: {_reason(error)}")
            continue
        for warning in decoded.warnings:
            tqdm.write(f"Warning: {picture.path}: {warning}", file=sys.stderr)
        done = finish(picture, decoded, prediction, predictor.info, seconds, asked)
        try:
            for output in outputs:
                write(output, done, asked, [name for name in formats if name != "parquet"])
                if output.option == "--out" and "parquet" in formats:
                    write_parquet(done.prediction.results.values(), output.of(picture), picture.name.as_posix())
        except OSError as error:
            raise click.ClickException(f"the results of {picture.path} cannot be written: {_reason(error)}") from error
        if not many:
            for task in tasks:
                click.echo(segment_table(done.prediction.results[task]))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        click.echo(f"{len(pictures) - len(failures)} of {len(pictures)} pictures segmented", err=True)
        sys.exit(1)


def _segment(predictor: "Predictor", decoded: DecodedPicture, options: SegmentationOptions, tile: Tiling, show: bool) -> Prediction:
    """One picture, in windows where that is asked for. Args: show: a bar of the windows."""
    if tile.kind == "joint":
        return predictor.segment_joint(decoded.rgb, tile, options)
    layout = lay_out(tile, decoded.header.height, decoded.header.width, predictor.plan, options.tasks)
    if layout is None:
        return predictor.segment([decoded.rgb], [options])[0]
    with tqdm(total=len(layout), unit="window", disable=not show) as bar:
        return segment_picture(predictor, layout, decoded.rgb, options, bar.update)


def _settings(options: Mapping[str, Any]) -> Settings:
    """Settings of the environment and of options that were given."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise click.ClickException(describe_invalid(error, given)) from error


def _check_outputs(pictures: Sequence[PictureFile], outputs: Sequence[Output], tasks: Sequence[Task]) -> None:
    """Make the folders of results. Raises ClickException for results that have no place of their own, or none that can be written."""
    if any(output.suffix == ".png" for output in outputs) and len(set(tasks)) > 1:
        raise click.UsageError("--overlay shows one task; name one --task")
    if len(pictures) > 1 and not outputs:
        raise click.UsageError("several pictures need --json FOLDER, --overlay FOLDER or --out FOLDER for the results")
    for output in outputs:
        option = output.option
        if not output.folder and len(pictures) > 1:
            raise click.UsageError(
                f"{option} {output.path} is one file, but there are {len(pictures)} pictures; end the name with / for a folder"
            )
        if not output.folder and output.suffix == ".png" and output.path.suffix.lower() not in _WRITTEN:
            raise click.UsageError(f"{option} {output.path} should end with {', '.join(_WRITTEN)}, or with / for a folder")
        if output.folder and output.path.exists() and not output.path.is_dir():
            raise click.UsageError(f"{option} {output.path} should be a folder, but is a file")
        folder = output.path if output.folder else output.path.parent
        try:  # told now, and not after everything is computed
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise click.ClickException(f"{option} {output.path} cannot be written: {_reason(error)}") from error
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
        lines.append(f"      ... and {len(ordered) - SHOWN_SEGMENTS} smaller ones (--json lists all)")
    return "\n".join(lines)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
