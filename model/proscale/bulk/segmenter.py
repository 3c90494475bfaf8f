"""What an actor with a model does: pictures in, rows out. A picture that fails is a row with its error."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow

from proscale.batches import compute_batch
from proscale.bulk.formats import make_files
from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.pictures import pictures_of, read_bytes
from proscale.bulk.rows import SCHEMA, WITH_FILES, error_text, segmented
from proscale.errors import ProscaleError
from proscale.geometry import ResizedPicture
from proscale.pictures import DecodedPicture, parse_intensity, read_picture
from proscale.results import Plan, Prediction, SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale.tiles import lay_out, parse_tiling, segment_picture


@dataclass(frozen=True)
class _Read:
    """A picture that was read."""

    row: int
    decoded: DecodedPicture
    resized: ResizedPicture
    plan: Plan


class PictureSegmenter:
    """One model in one process. Calls take columns of `Picture`, of which `path` suffices, and give a table of `SCHEMA`, or of
    `WITH_FILES` where the format has files per picture, in the same order."""

    def __init__(
        self,
        runtime: RuntimeConfig,
        options: SegmentationOptions,
        tile: str,
        intensity: str,
        max_pixels: int,
        output_format: str = "parquet",
    ) -> None:
        """Load the model. Raises CheckpointError, ParameterError."""
        from proscale.loading import load_predictor  # here: whoever only names the class should not wait for torch

        self._predictor = load_predictor(runtime)
        self._predictor.check(options)
        self._options, self._max_pixels, self._format = options, max_pixels, output_format
        self._tiling, self._intensity = parse_tiling(tile), parse_intensity(intensity)

    def __call__(self, batch: Mapping[str, Any]) -> pyarrow.Table:
        """Segment a batch of pictures; those of one padded size together."""
        pictures = pictures_of(batch)
        rows: list[dict[str, Any]] = [{"path": picture.path} for picture in pictures]
        waiting: dict[tuple[int, int], list[_Read]] = {}
        for index, (picture, row) in enumerate(zip(pictures, rows, strict=True)):
            try:
                decoded = read_picture(read_bytes(picture), self._max_pixels, self._intensity)
                height, width = decoded.header.height, decoded.header.width
                if self._tiling.kind == "joint":
                    self._finish(row, decoded, self._predictor.segment_joint(decoded.rgb, self._tiling, self._options))
                    continue
                layout = lay_out(self._tiling, height, width, self._predictor.plan, self._options.tasks)
                if layout is not None:
                    self._finish(row, decoded, segment_picture(self._predictor, layout, decoded.rgb, self._options))
                    continue
                plan = self._predictor.plan(height, width, self._options.tasks)
                waiting.setdefault(plan.padded, []).append(_Read(index, decoded, self._predictor.resize(decoded.rgb), plan))
            except (ProscaleError, OSError) as error:
                row["error"] = error_text(error)
        for same in waiting.values():
            for read, outcome in zip(same, compute_batch(self._compute, same), strict=True):
                assert outcome is not None
                if outcome.prediction is None:
                    rows[read.row]["error"] = error_text(outcome.error)
                else:
                    self._finish(rows[read.row], read.decoded, outcome.prediction)
        return pyarrow.Table.from_pylist(rows, SCHEMA if self._format == "parquet" else WITH_FILES)

    def _compute(self, same: Sequence[_Read]) -> Sequence[Prediction]:
        pictures, plans = [read.resized for read in same], [read.plan for read in same]
        return self._predictor.segment_resized(pictures, [self._options] * len(same), plans)

    def _finish(self, row: dict[str, Any], decoded: DecodedPicture, prediction: Prediction) -> None:
        plan, header, results = prediction.plan, decoded.header, prediction.results.values()
        cost = 1 if plan.tiles is None else plan.tiles.windows, plan.flops, plan.baseline_flops
        row.update(segmented((header.height, header.width), header.orientation, results, cost, decoded.warnings))
        row["files"] = make_files(self._format, row, list(results))


def model_work(options: BulkOptions) -> Work:
    """Work by models in the actors."""
    from proscale.checkpoints.model_folder import DEFAULT_FOLDER  # here: it needs torch

    folder = Path(options.runtime.checkpoint or DEFAULT_FOLDER)
    digest = hashlib.sha256()
    for name in ("config.json", "labels.json", "model.safetensors"):
        if (file := folder / name).exists():
            digest.update(file.read_bytes())
    asked = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options.segmentation).items()}
    decides = {"model": digest.hexdigest(), "tile": options.tile, "intensity": options.intensity, "max_pixels": options.max_pixels} | asked
    arguments = (options.runtime, options.segmentation, options.tile, options.intensity, options.max_pixels, options.output_format)
    return Work(PictureSegmenter, arguments, decides)
