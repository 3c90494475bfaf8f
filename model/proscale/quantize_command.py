"""`proscale quantize`: measure what int8 needs to know of a model, on pictures of the kind that it is for."""

from pathlib import Path

import click
from tqdm import tqdm

from proscale.errors import CheckpointError, DataError, ProscaleError

LIMIT = 64
MAX_PIXELS = 400_000_000


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of pictures; folders in it are read, too.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, help="Measure N pictures, spread over the folder.")
def quantize(model: Path, data: Path, limit: int) -> None:
    """Calibrate MODEL, a model folder, for `--precision int8`.

    The network reads the pictures in float32, and the range of every large layer's input is written to calibration.json in the model
    folder, whole or not at all. The pictures need no annotation; some dozens are enough. The weights stay as they are.

    \b
    proscale quantize coco-swin-t --data coco/train2017
    """
    try:
        pictures = spread(pictures_in(data), limit)
        path, layers = calibrate(model, pictures)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{path}: {layers} layers, {len(pictures)} pictures. Use it with --precision int8 (PROSCALE_PRECISION=int8).")


def pictures_in(folder: Path) -> list[Path]:
    """Picture files below a folder, in order.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    from proscale.pictures import SUFFIXES

    if not folder.is_dir():
        raise DataError(f"no folder at {folder}; name one that holds pictures")
    found = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(SUFFIXES) and path.is_file())
    if not found:
        raise DataError(f"{folder} holds no picture; known are {', '.join(SUFFIXES)}")
    return found


def spread(pictures: list[Path], limit: int) -> list[Path]:
    """At most `limit` of them, at equal distances."""
    count = min(limit, len(pictures))
    return [pictures[i * len(pictures) // count] for i in range(count)]


def calibrate(model: Path, pictures: list[Path]) -> tuple[Path, int]:
    """Measure a model's layers on pictures; returns the file written, and how many layers it names.

    Raises:
        CheckpointError: the model cannot be used, or int8 is not offered for its kind.
        DataError: a picture cannot be read. Nothing is written.
    """
    from proscale.checkpoints.calibration_file import save_calibration, weights_digest  # here: `--help` should not wait for torch
    from proscale.int8_network import Calibration, check_kind, observe
    from proscale.pictures import read_picture
    from proscale.predictor import Predictor
    from proscale.results import SegmentationOptions

    digest = weights_digest(model) if model.is_dir() else ""
    predictor = Predictor.load(model, precision="float32")
    notes = observe(check_kind(predictor.network))
    for path in tqdm(pictures, unit="picture", disable=None):
        try:
            rgb = read_picture(path.read_bytes(), MAX_PIXELS).rgb
        except (ProscaleError, OSError) as error:
            raise DataError(
                f"{path} cannot be read ({error}). Remove it from the folder, or name another one; the model is as it was"
            ) from error
        predictor.segment([rgb], [SegmentationOptions(predictor.config.tasks[:1])])
    ranges = {name: (seen.low, seen.high) for name, seen in notes.items() if seen.low <= seen.high}
    if not ranges:
        raise CheckpointError(f"{model} has no layer for int8")
    return save_calibration(model, Calibration(digest, len(pictures), ranges)), len(ranges)
