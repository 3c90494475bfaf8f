"""The row that every picture has in OUTPUT, whoever segmented it. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow

from proscale.results import RLE, Segment, Segmentation

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
FILE = pyarrow.struct([("name", pyarrow.string()), ("data", pyarrow.binary())])
WITH_FILES = SCHEMA.append(pyarrow.field("files", pyarrow.list_(FILE)))
"""What actors send where OUTPUT has files per picture: names relative to OUTPUT, and bytes."""
STOP = ""
"""The path of a row that is no picture's: its error ends the job, and the batch's pictures without a row are left for another time."""
DECIMALS = 6
"""Of scores, as in the service's answers."""


def segmented(
    size: tuple[int, int],
    orientation: int,
    results: Iterable[Segmentation],
    cost: tuple[int, int, int],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """A row without its path. Args: size: (height, width); cost: windows, FLOPs, FLOPs of the baseline."""
    segments = [
        {
            "task": result.task,
            "id": each.id,
            "category_id": each.category_id,
            "label": each.label,
            "isthing": each.isthing,
            "score": round(each.score, DECIMALS),
            "bbox": list(each.bbox),
            "area": each.area,
            "counts": each.segmentation.counts,
        }
        for result in results
        for each in result.segments
    ]
    windows, flops, baseline = cost
    return {
        "height": size[0],
        "width": size[1],
        "orientation": orientation,
        "segments": segments,
        "windows": windows,
        "flops": flops,
        "baseline_flops": baseline,
        "warnings": list(warnings),
    }


def segmentation_of(row: Mapping[str, Any], task: Any) -> Segmentation:
    """A task's segments of a row without an error."""
    size = row["height"], row["width"]
    return Segmentation(
        task,
        size,
        tuple(
            Segment(
                id=each["id"],
                category_id=each["category_id"],
                label=each["label"],
                isthing=each["isthing"],
                score=each["score"],
                bbox=tuple(each["bbox"]),
                area=each["area"],
                segmentation=RLE(size, each["counts"]),
            )
            for each in row["segments"]
            if each["task"] == task
        ),
    )


def error_text(error: Exception | None) -> str:
    """What a row says of an error."""
    return f"{error.strerror or error}" if isinstance(error, OSError) else str(error) or type(error).__name__
