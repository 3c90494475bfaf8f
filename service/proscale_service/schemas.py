"""What goes in and out as JSON: pydantic models, documented for OpenAPI."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from proscale.config import TASKS, Task
from proscale.results import ModelInfo, Plan, Segmentation
from proscale_service.errors import InvalidParameter

P = TypeVar("P", bound=BaseModel)

EXAMPLE_ID = "01JD0V3W8Y5S2Z7QK4M9XB6TRC"


def _split(value: Any) -> Any:
    """`"a,b"` and `["a,b", "c"]` -> list of names; anything else is left for the type check."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [name.strip() for part in value for name in part.split(",")]
    return value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    # To Python, and so to pydantic, true is the number 1.
    if isinstance(value, bool):
        raise ValueError("should be a number, not a truth value")
    return value


_number = BeforeValidator(_not_bool)
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _number]
Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), _number]
Count = Annotated[int, Field(ge=1), _number]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000), _number]
Side = Annotated[int, Field(ge=1, le=1_000_000), _number]
Tasks = Annotated[tuple[Task, ...], Field(min_length=1), BeforeValidator(_split)]
Labels = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_one_or_many)]


class SegmentParameters(BaseModel):
    """Parameters of a request. What is left out has the model's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Tasks = Field(
        default=("panoptic",),
        description="`panoptic` (if none is named), `instance`, `semantic`; several, repeated or comma separated, share one pass.",
    )
    threshold: Share | None = Field(
        default=None,
        description="Least confidence of a segment. Panoptic: of its query; instance: of its score; semantic: not used.",
    )
    mask_threshold: Probability | None = Field(
        default=None,
        description="Probability from which a pixel belongs to a mask (panoptic, instance).",
    )
    overlap_threshold: Share | None = Field(
        default=None,
        description="Panoptic: a segment is dropped when less than this share of its mask is left to it.",
    )
    labels: Labels | None = Field(
        default=None,
        description="Keep only segments with these labels (see `GET /models`); repeated or comma separated.",
    )
    max_segments: Count | None = Field(
        default=None,
        description="Keep only the segments of highest score, at most so many per task.",
    )
    deadline_ms: Milliseconds | None = Field(
        default=None,
        description="Answer within so many milliseconds of the request's arrival, or 504.",
    )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The asked tasks, each once, in the order of the request."""
        return tuple(dict.fromkeys(self.task))


LIST_PARAMETERS = {"task", "labels"}


class PlanParameters(BaseModel):
    """Parameters of /segment/plan: the tasks; width and height instead of a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Tasks = Field(default=("panoptic",), description="The tasks to plan for.")
    width: Side | None = Field(default=None, description="Pixels, after orientation. Give it with `height`, or send a picture.")
    height: Side | None = Field(default=None, description="Pixels, after orientation.")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The asked tasks, each once, in the order of the request."""
        return tuple(dict.fromkeys(self.task))


class MaskModel(BaseModel):
    """A binary mask as COCO run-length encoding; `counts` is pycocotools' compressed string."""

    size: tuple[int, int] = Field(description="(height, width) in pixels: the oriented input picture's.", examples=[[427, 640]])
    counts: str = Field(description="Runs in column-major order, zeros first, compressed as pycocotools does.")


class SegmentModel(BaseModel):
    """One segment."""

    id: int = Field(description="1, 2, ... within one result.")
    category_id: int = Field(description="Id of the category in the model's data set.")
    label: str = Field(description="The category's name.")
    isthing: bool = Field(description="True for countable things, false for stuff.")
    score: float = Field(description="Confidence in 0..1.")
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height in pixels of the oriented input picture.")
    area: int = Field(description="Pixels of the mask.")
    segmentation: MaskModel


class ResultModel(BaseModel):
    """The segments of one task."""

    segments: list[SegmentModel]


class ImageModel(BaseModel):
    """The picture as it was understood."""

    width: int = Field(description="Pixels, after orientation.", examples=[640])
    height: int = Field(description="Pixels, after orientation.", examples=[427])
    orientation_applied: int = Field(description="EXIF orientation that was applied, 1..8; 1: as stored.", examples=[1])


class EncodingModel(BaseModel):
    """How masks are written."""

    type: Literal["coco_rle"] = "coco_rle"
    order: Literal["column_major"] = "column_major"


class ModelSummary(BaseModel):
    """Which model answered."""

    name: str
    encoder: str = Field(description="`proscale` or `mask2former`.")
    layers: list[int] = Field(description="[p1, p2, p3] of a PRO-SCALE encoder, [n] of a Mask2Former encoder.", examples=[[3, 3, 3]])


class CostModel(BaseModel):
    """What a picture costs. 1 FLOP = 1 multiply-accumulate."""

    flops: int = Field(description="Spent.")
    baseline_flops: int = Field(description="Of Mask2Former with 6 encoder layers, same backbone, padded size and outputs.")
    saved_ratio: float = Field(description="1 - flops / baseline_flops.", examples=[0.266])
    padded_size: tuple[int, int] = Field(description="(height, width) of the network's input.", examples=[[800, 1088]])


class ComputeModel(CostModel):
    """What the answer cost."""

    batch_size: int = Field(description="Pictures computed together with this one, itself included.")
    degraded: bool = Field(description="True when less was computed than asked, to keep a deadline or budget; never so far.")


class TimingsModel(BaseModel):
    """Milliseconds per stage. `preprocess` and `infer` are those of the whole batch."""

    decode: float
    queue: float
    preprocess: float
    infer: float
    postprocess: float
    encode: float


class SegmentResponse(BaseModel):
    """The answer: `task` and `segments` when one task was asked, `results` when several were."""

    id: str = Field(description="The request's id.", examples=[EXAMPLE_ID])
    task: Task | None = Field(default=None, description="The asked task, if it was one.")
    image: ImageModel
    segments: list[SegmentModel] | None = Field(default=None, description="The segments, if one task was asked.")
    results: dict[Task, ResultModel] | None = Field(default=None, description="Task -> segments, if several were asked.")
    encoding: EncodingModel = EncodingModel()
    model: ModelSummary
    compute: ComputeModel
    timings_ms: TimingsModel


class ProblemModel(BaseModel):
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
    result: SegmentResponse | None = None
    error: ProblemModel | None = None


class BatchResponse(BaseModel):
    """One item per picture, in the order of the request."""

    id: str = Field(examples=[EXAMPLE_ID])
    items: list[BatchItem]


class PlanResponse(BaseModel):
    """What a picture would cost now."""

    id: str = Field(examples=[EXAMPLE_ID])
    image: ImageModel
    tasks: list[Task]
    resized_size: tuple[int, int] = Field(description="(height, width) of the picture as the network sees it.")
    compute: CostModel
    expected_ms: float | None = Field(description="Expected time until the masks, the queue included; null before anything was measured.")
    model: ModelSummary


class CategoryModel(BaseModel):
    """One label."""

    id: int
    name: str
    isthing: bool


class OriginModel(BaseModel):
    """What a converted model was made from."""

    name: str = Field(description="File name, or hf:OWNER/NAME@commit.")
    sha256: str = Field(description="Of the weight file that was converted.")
    layout: str
    changes: list[str] = Field(description="What makes the network another than the source's; empty for a faithful copy.")


class ModelModel(ModelSummary):
    """A served model."""

    backbone: str
    tasks: list[Task]
    categories: list[CategoryModel]
    origin: OriginModel | None = Field(description="What the weights were converted from; null for a model trained here.")


class ModelsResponse(BaseModel):
    """What is served."""

    models: list[ModelModel]


class HealthResponse(BaseModel):
    """State of the server."""

    status: Literal["ok", "loading", "ready", "draining", "failed"]


def parse_parameters(cls: type[P], values: Mapping[str, Any]) -> P:
    """Validate parameters.

    Raises:
        InvalidParameter: all that is wrong, in one sentence each, unknown names together with the known ones.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise InvalidParameter("; ".join(dict.fromkeys(_explain(cls, problem) for problem in error.errors()))) from error


def _explain(cls: type[BaseModel], problem: Any) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}; known are {', '.join(cls.model_fields)}"
    shown = repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"


def image_model(height: int, width: int, orientation: int) -> ImageModel:
    """Args: oriented size in pixels, EXIF orientation."""
    return ImageModel(width=width, height=height, orientation_applied=orientation)


def segment_models(segmentation: Segmentation) -> list[SegmentModel]:
    """The segments of one result."""
    return [
        SegmentModel(
            id=segment.id,
            category_id=segment.category_id,
            label=segment.label,
            isthing=segment.isthing,
            score=round(segment.score, 6),
            bbox=segment.bbox,
            area=segment.area,
            segmentation=MaskModel(size=segment.segmentation.size, counts=segment.segmentation.counts),
        )
        for segment in segmentation.segments
    ]


def cost(plan: Plan) -> dict[str, Any]:
    """The fields of CostModel."""
    saved = 1 - plan.flops / plan.baseline_flops if plan.baseline_flops else 0.0
    return {"flops": plan.flops, "baseline_flops": plan.baseline_flops, "saved_ratio": round(saved, 4), "padded_size": plan.padded}


def summary(info: ModelInfo) -> ModelSummary:
    """The model in an answer."""
    return ModelSummary(name=info.name, encoder=info.encoder, layers=list(info.layers))


def models_response(infos: Sequence[ModelInfo]) -> ModelsResponse:
    """All served models with their labels."""
    return ModelsResponse(
        models=[
            ModelModel(
                **summary(info).model_dump(),
                backbone=info.backbone,
                tasks=list(TASKS),
                categories=[CategoryModel(id=c.id, name=c.name, isthing=c.isthing) for c in info.categories],
                origin=None if info.provenance is None else OriginModel(**asdict(info.provenance)),
            )
            for info in infos
        ]
    )
