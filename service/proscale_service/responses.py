"""Answers as JSON: pydantic models, documented for OpenAPI. Their class names are the names that users see there."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from proscale.config import Task

REFERENCE_SIZE = (480, 640)
"""(height, width) of the picture whose cost `GET /models` tells."""
EXAMPLE_ID = "01JD0V3W8Y5S2Z7QK4M9XB6TRC"


def _absent(description: str | None = None) -> Any:
    """A field that is left out, never null, if it has no value."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description)


class Mask(BaseModel):
    """A binary mask as COCO run-length encoding; `counts` is pycocotools' compressed string."""

    size: tuple[int, int] = Field(description="(height, width) in pixels of the oriented picture.", examples=[[427, 640]])
    counts: str = Field(description="Runs in column-major order, zeros first, compressed as pycocotools does.")


class Segment(BaseModel):
    """One segment."""

    id: int = Field(description="1, 2, ... within one result.")
    category_id: int = Field(description="Id of the category in the model's data set.")
    label: str = Field(description="The category's name.")
    isthing: bool = Field(description="True for countable things, false for stuff.")
    score: float = Field(description="Confidence in 0..1.")
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels of the oriented picture.")
    area: int = Field(description="Pixels of the mask.")
    segmentation: Mask


class TaskResult(BaseModel):
    """The segments of one task."""

    segments: list[Segment]


class Image(BaseModel):
    """The picture as it was read."""

    width: int = Field(description="Pixels, after orientation.", examples=[640])
    height: int = Field(description="Pixels, after orientation.", examples=[427])
    orientation_applied: int = Field(description="EXIF orientation that was applied, 1..8; 1: as stored.", examples=[1])
    warnings: list[str] | SkipJsonSchema[None] = _absent(
        "What should be known about the picture, such as that it is dark; left out when there is nothing."
    )


class Encoding(BaseModel):
    """How masks are written."""

    type: Literal["coco_rle"] = "coco_rle"
    order: Literal["column_major"] = "column_major"


class ModelSummary(BaseModel):
    """Which model answered."""

    name: str
    encoder: str = Field(description="`proscale` or `mask2former`; else the network: `eomt`, `segformer`, `setr` or `segvit`.")
    layers: list[int] = Field(
        description="[p1, p2, p3] of a PRO-SCALE encoder, [n] of a Mask2Former encoder; else the backbone's blocks.", examples=[[3, 3, 3]]
    )


class Tiles(BaseModel):
    """The windows of a large picture. Sizes are in pixels of the picture."""

    windows: int
    size: tuple[int, int] = Field(description="(height, width) of every window.", examples=[[800, 800]])
    overlap: tuple[int, int] = Field(
        description="(vertical, horizontal): pixels that neighbouring windows share at least.", examples=[[160, 160]]
    )
    scale: float = Field(description="Pixels of the network's input per pixel of the picture.", examples=[1.0])
    joint: bool = Field(
        default=False,
        exclude_if=lambda joint: not joint,
        description="True where windows are apart in the backbone alone; left out where their results are merged.",
    )


class Cost(BaseModel):
    """What a picture costs. 1 FLOP = 1 multiply-accumulate."""

    flops: int = Field(description="FLOPs spent.")
    baseline: str = Field(
        description="Baseline of the savings: Mask2Former with 6 encoder layers, or the network as published.",
        examples=["Mask2Former with 6 encoder layers, all else equal"],
    )
    baseline_flops: int = Field(description="FLOPs of the baseline, for the same padded size and outputs.")
    saved_ratio: float = Field(description="1 - flops / baseline_flops.", examples=[0.266])
    padded_size: tuple[int, int] = Field(
        description="(height, width) of the network's input; with `tiles` that are not `joint`: for one window.", examples=[[800, 1088]]
    )
    tiles: Tiles | None = Field(
        default=None,
        exclude_if=lambda tiles: tiles is None,
        description="The windows, if `tile` cut the picture; left out if the picture is segmented as a whole.",
    )


class Compute(Cost):
    """Cost of the answer."""

    batch_size: int = Field(description="Pictures computed together with this one, itself included.")
    degraded: bool = Field(description="True if less was computed than requested, to meet a deadline or budget; not in use, always false.")


class Timings(BaseModel):
    """Milliseconds per stage. `preprocess` and `infer` are those of the whole batch."""

    decode: float
    queue: float
    preprocess: float
    infer: float
    postprocess: float
    encode: float


class Cleaning(BaseModel):
    """Cleaning that was applied to the segments of all tasks."""

    dropped_small: int = Field(description="Segments below `min_area`.")
    dropped_duplicates: int = Field(description="Instances that `deduplicate` dropped.")
    filled_pixels: int = Field(description="Pixels that `fill_holes` added.")
    removed_pixels: int = Field(description="Pixels that `largest_piece` took away.")
    merged_segments: int = Field(description="Segments that have a new label by `merge_labels`, counted before they became one.")


class SegmentResponse(BaseModel):
    """The answer: `task` and `segments` for one task, `results` for several."""

    id: str = Field(description="The request's id.", examples=[EXAMPLE_ID])
    task: Task | SkipJsonSchema[None] = _absent("The task, if the request has one.")
    image: Image
    segments: list[Segment] | SkipJsonSchema[None] = _absent("The segments, if one task was asked.")
    results: dict[Task, TaskResult] | SkipJsonSchema[None] = _absent("Task -> segments, if several were asked.")
    encoding: Encoding = Encoding()
    cleaning: Cleaning | SkipJsonSchema[None] = _absent("What cleaning did; only where it was asked for.")
    model: ModelSummary
    compute: Compute
    timings_ms: Timings


class Problem(BaseModel):
    """An error, as RFC 9457 has it (application/problem+json)."""

    type: str = Field(examples=["urn:proscale:problem:invalid-parameter"])
    title: str = Field(examples=["Invalid parameter"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["threshold: should be less than or equal to 1 (it is 7)"])
    instance: str = Field(description="Path of the request.", examples=["/segment"])
    request_id: str = Field(examples=[EXAMPLE_ID])


class BatchItem(BaseModel):
    """One picture of a batch: an answer or a problem."""

    index: int = Field(description="Position in the request, from 0.")
    result: SegmentResponse | SkipJsonSchema[None] = _absent()
    error: Problem | SkipJsonSchema[None] = _absent()


class BatchResponse(BaseModel):
    """One item per picture, in the order of the request."""

    id: str = Field(examples=[EXAMPLE_ID])
    items: list[BatchItem]


class PlanResponse(BaseModel):
    """Expected cost of a picture."""

    id: str = Field(examples=[EXAMPLE_ID])
    image: Image
    tasks: list[Task]
    resized_size: tuple[int, int] = Field(description="(height, width) of the picture, or of one window, as the network sees it.")
    compute: Cost
    expected_ms: float | None = Field(
        description="Expected milliseconds until the masks are computed, waiting in the queue included; null before the first measurement."
    )
    model: ModelSummary


class Category(BaseModel):
    """One label."""

    id: int
    name: str
    isthing: bool


class Origin(BaseModel):
    """What a converted model was made from."""

    name: str = Field(description="File name, or hf:OWNER/NAME@commit.")
    sha256: str = Field(description="SHA-256 of the converted weight file.")
    layout: str
    changes: list[str] = Field(description="Differences from the source's network; empty for an exact copy.")


class ServedModel(ModelSummary):
    """A served model."""

    backbone: str
    tasks: list[Task]
    categories: list[Category]
    origin: Origin | None = Field(description="What the weights were converted from; null for a model trained here.")
    state: Literal["ready", "replacing"] = Field(description="`replacing`: it serves while its replacement is being loaded.")
    flops: int = Field(description="Multiply-accumulates for a picture of 640x480 pixels and the first of `tasks`.")


class ModelsResponse(BaseModel):
    """The served models."""

    models: list[ServedModel]


class HealthResponse(BaseModel):
    """State of the server."""

    status: Literal["ok", "loading", "ready", "draining", "failed"]
