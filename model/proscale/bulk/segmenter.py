"""What an actor does: paths in, rows out. A picture that fails is a row with its error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow

from proscale.batches import compute_batch
from proscale.bulk.listing import read_bytes
from proscale.errors import ProscaleError
from proscale.geometry import ResizedPicture
from proscale.pictures import DecodedPicture, parse_intensity, read_picture
from proscale.results import Plan, Prediction, SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale.tiles import lay_out, parse_tiling, segment_picture

SEGMENT = pyarrow.struct(
    [
        ("task", pyarrow.string()),
        ("id", pyarrow.int32()),
        ("category_id", pyarrow.int32()),
        ("label", pyarrow.string()),
        ("isthing", pyarrow.bool_()),
        ("score", pyarrow.float32()),
        ("bbox", pyarrow.list_(pyarrow.int32())),
        ("area", pyarrow.int64()),
        ("counts", pyarrow.string()),
    ]
)
SCHEMA = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("height", pyarrow.int32()),
        ("width", pyarrow.int32()),
        ("orientation", pyarrow.int8()),
        ("segments", pyarrow.list_(SEGMENT)),
        ("windows", pyarrow.int32()),
        ("flops", pyarrow.int64()),
        ("baseline_flops", pyarrow.int64()),
        ("warnings", pyarrow.list_(pyarrow.string())),
        ("error", pyarrow.string()),
    ]
)
"""A row per picture: its size after orientation, the segments with COCO RLE of that size, its cost; or an error."""


@dataclass(frozen=True)
class _Read:
    """A picture that was read."""

    row: int
    decoded: DecodedPicture
    resized: ResizedPicture
    plan: Plan


class PictureSegmenter:
    """One model in one process. Calls take a batch with a column `path` and give a table of `SCHEMA`, in the same order."""

    def __init__(self, runtime: RuntimeConfig, options: SegmentationOptions, tile: str, intensity: str, max_pixels: int) -> None:
        """Load the model. Raises CheckpointError, ParameterError."""
        from proscale.loading import load_predictor

        self._predictor = load_predictor(runtime)
        self._predictor.check(options)
        self._options, self._max_pixels = options, max_pixels
        self._tiling, self._intensity = parse_tiling(tile), parse_intensity(intensity)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> pyarrow.Table:
        """Segment a batch of pictures; those of one padded size together."""
        rows: list[dict[str, Any]] = [{"path": str(path)} for path in batch["path"]]
        waiting: dict[tuple[int, int], list[_Read]] = {}
        for index, row in enumerate(rows):
            try:
                decoded = read_picture(read_bytes(row["path"]), self._max_pixels, self._intensity)
                height, width = decoded.header.height, decoded.header.width
                if self._tiling.kind == "joint":
                    row.update(_row(decoded, self._predictor.segment_joint(decoded.rgb, self._tiling, self._options)))
                    continue
                layout = lay_out(self._tiling, height, width, self._predictor.plan, self._options.tasks)
                if layout is not None:
                    row.update(_row(decoded, segment_picture(self._predictor, layout, decoded.rgb, self._options)))
                    continue
                plan = self._predictor.plan(height, width, self._options.tasks)
                waiting.setdefault(plan.padded, []).append(_Read(index, decoded, self._predictor.resize(decoded.rgb), plan))
            except (ProscaleError, OSError) as error:
                row["error"] = _text(error)
        for same in waiting.values():
            for read, outcome in zip(same, compute_batch(self._compute, same), strict=True):
                assert outcome is not None
                if outcome.prediction is None:
                    rows[read.row]["error"] = _text(outcome.error)
                else:
                    rows[read.row].update(_row(read.decoded, outcome.prediction))
        return pyarrow.Table.from_pylist(rows, SCHEMA)

    def _compute(self, same: Sequence[_Read]) -> Sequence[Prediction]:
        pictures, plans = [read.resized for read in same], [read.plan for read in same]
        return self._predictor.segment_resized(pictures, [self._options] * len(same), plans)


def _row(decoded: DecodedPicture, prediction: Prediction) -> dict[str, Any]:
    segments = [
        {
            "task": task,
            "id": each.id,
            "category_id": each.category_id,
            "label": each.label,
            "isthing": each.isthing,
            "score": each.score,
            "bbox": list(each.bbox),
            "area": each.area,
            "counts": each.segmentation.counts,
        }
        for task, result in prediction.results.items()
        for each in result.segments
    ]
    plan, header = prediction.plan, decoded.header
    return {
        "height": header.height,
        "width": header.width,
        "orientation": header.orientation,
        "segments": segments,
        "windows": 1 if plan.tiles is None else plan.tiles.windows,
        "flops": plan.flops,
        "baseline_flops": plan.baseline_flops,
        "warnings": list(decoded.warnings),
    }


def _text(error: Exception | None) -> str:
    return f"{error.strerror or error}" if isinstance(error, OSError) else str(error) or type(error).__name__
