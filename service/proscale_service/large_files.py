"""`proscale segment` on files that are too large to be decoded as a whole: read, segmented and written in parts."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from proscale.errors import ParameterError
from proscale.formats.cleaning import CleaningOptions
from proscale.formats.runs import column_runs
from proscale.pictures import Intensity
from proscale.pictures.large import LargeFile, open_large
from proscale.pictures.large.decoders import SLIDES
from proscale.results import Prediction, Segmentation, SegmentationOptions
from proscale.tiles import Merger, Tiling, lay_out, merged_prediction, segment_windows
from proscale.tiles.files import FORMATS, StreamOptions, write_segments
from proscale.tiles.layout import Box
from proscale.tiles.merge import MergedSegment
from proscale_service.picture_files import PictureFile
from proscale_service.requests import PictureParameters
from proscale_service.segment_outputs import Output, results_of

if TYPE_CHECKING:
    from proscale.predictor import Predictor

STREAMED = tuple(FORMATS)
"""Formats that are written segment by segment."""


@dataclass(frozen=True)
class LargeOutputs:
    """Where the results of one large picture go."""

    formats: tuple[str, ...] = ()
    """Of `STREAMED`."""
    base: Path = Path()
    """Folder and first part of the names of their files."""
    answers: tuple[Path, ...] = ()
    """Files of JSON as the service answers it."""
    results: tuple[Path, ...] = ()
    """Files of JSON as `--json` writes it."""


def large_outputs(picture: PictureFile, outputs: Sequence[Output], formats: Sequence[str]) -> LargeOutputs:
    """Where the outputs that are asked for put a picture's results. Args: formats: of `--out`."""
    out = next((output.of(picture) for output in outputs if output.option == "--out"), None)
    results = tuple(output.of(picture) for output in outputs if output.option == "--json")
    if out is None:
        return LargeOutputs(results=results)
    answers = (out.with_name(f"{out.name}.json"),) if "json" in formats else ()
    return LargeOutputs(tuple(name for name in STREAMED if name in formats), out, answers, results)


def is_large(path: Path, max_pixels: int) -> bool:
    """Whether a file is read in parts: a slide, or more pixels than are decoded as a whole."""
    if path.suffix.lower() in SLIDES:
        return True
    try:
        with Image.open(path) as image:
            return image.width * image.height > max_pixels
    except Exception:
        return False  # the reader of pictures says what is wrong with it


def check_large(asked: Sequence[str], cleaning: CleaningOptions | None) -> None:
    """Raise ParameterError, with the remedy, for what large pictures cannot have. Args: asked: options and formats."""
    if beyond := [name for name in asked if name not in (*STREAMED, "json", "--json")]:
        raise ParameterError(
            f"{', '.join(beyond)} needs the whole picture, but this one is read in parts; use --json, or --format "
            f"{', '.join(STREAMED)} or json, or raise PROSCALE_MAX_PIXELS"
        )
    if cleaning is not None and replace(cleaning, min_area=0) != CleaningOptions():
        raise ParameterError("of the cleaning options, only --min-area works for a picture that is read in parts")


def segment_large_file(
    predictor: "Predictor",
    picture: PictureFile,
    options: SegmentationOptions,
    tiling: Tiling,
    intensity: Intensity,
    parameters: PictureParameters,
    outputs: LargeOutputs,
) -> list[str]:
    """Segment one file and write its results.

    Returns:
        a line per task: what was found.

    Raises:
        ProscaleError: the file is broken, changes meanwhile, or cannot be had in parts.
        OSError: a result cannot be written; nothing of it is left.
    """
    if tiling.kind == "joint":
        raise ParameterError(
            "tile: joint needs the whole picture, but this one is read in parts; use --tile auto, or raise PROSCALE_MAX_PIXELS"
        )
    started = time.perf_counter()
    with tqdm(unit="row", desc="looking through", leave=False, disable=None) as bar:
        file = open_large(picture.path, intensity, bar.update)
    with file:
        opened = time.perf_counter() - started
        height, width = file.header.height, file.header.width
        layout = lay_out(tiling, height, width, predictor.plan, options.tasks)
        if layout is None:
            raise ParameterError(f"a picture of {width} x {height} pixels is read in parts: choose windows with --tile SIZE[,OVERLAP]")
        for warning in file.warnings:
            tqdm.write(f"Warning: {picture.path}: {warning}", file=sys.stderr)

        def read(box: Box) -> NDArray[np.uint8]:
            return file.read(box.top, box.left, box.bottom, box.right)

        with tqdm(total=len(layout), unit="window") as windows:
            mergers, seconds = segment_windows(predictor, layout, read, options, windows.update)
        smallest = parameters.min_area or 0
        prediction: Prediction | None = None
        if outputs.answers or outputs.results:
            prediction = merged_prediction(mergers, layout.plan, {"decode": opened} | seconds, options.max_segments, smallest)
            _write_answers(prediction, file, predictor, picture, outputs)
        lines = []
        for task, merger in mergers.items():
            found = as_merged(prediction.results[task]) if prediction else _chosen(merger, options.max_segments, smallest)
            stream = StreamOptions(task, layout.size, file.georeference, parameters.simplify or 0.0, picture.name.as_posix())
            paths = {name: outputs.base.with_name(f"{outputs.base.name}.{task}{FORMATS[name][0]}") for name in outputs.formats}
            lines.append(f"{task}: {write_segments(found, paths, stream)} segments in {len(layout)} windows")
    return lines


def as_merged(segmentation: Segmentation) -> Iterator[MergedSegment]:
    """The segments of a result that is in memory, for the same writers."""
    for each in segmentation.segments:
        yield MergedSegment(each.category_id, each.label, each.isthing, each.score, column_runs(each.segmentation))


def write_parquet(results: Iterable[Segmentation], base: Path, seed: str) -> None:
    """The table of a picture that was read as a whole. Args: base: folder and first part of the file's name."""
    for result in results:
        path = base.with_name(f"{base.name}.{result.task}.parquet")
        write_segments(as_merged(result), {"parquet": path}, StreamOptions(result.task, result.size, seed=seed))


def _chosen(merger: Merger, most: int | None, smallest: int) -> Iterable[MergedSegment]:
    large = (segment for segment in merger.finish() if segment.runs.area >= smallest)
    if most is None:
        return large
    found = list(large)
    best = sorted(range(len(found)), key=lambda i: -found[i].score)[:most]
    return [found[i] for i in sorted(best)]


def _write_answers(prediction: Prediction, file: LargeFile, predictor: "Predictor", picture: PictureFile, outputs: LargeOutputs) -> None:
    from proscale_service.engines.base import Computed
    from proscale_service.pipeline import SegmentedPicture
    from proscale_service.rendering import segment_response

    done = SegmentedPicture(file.header, Computed(prediction, predictor.info, 1, 0.0), prediction.timings.get("decode", 0.0), file.warnings)
    response = segment_response(done, str(picture.path))
    for path in outputs.answers:
        write_atomically(path, response.model_dump_json() + "\n")
    for path in outputs.results:
        write_atomically(path, json.dumps(results_of(response)) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either complete or not there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
