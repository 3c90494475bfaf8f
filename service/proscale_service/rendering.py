"""What was computed -> answers as JSON. Runs on a reading thread, because hundreds of masks are megabytes of text."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.formats.cleaning import clean
from proscale.pictures import Header
from proscale.results import ModelInfo, Plan, Segmentation
from proscale_service import responses
from proscale_service.errors import ServiceError, problem
from proscale_service.models import Model, Models
from proscale_service.options import cleaning_of
from proscale_service.pipeline import SegmentedPicture
from proscale_service.requests import PictureParameters, SegmentParameters
from proscale_service.responses import BatchItem, BatchResponse, ModelsResponse, ModelSummary, PlanResponse, SegmentResponse, TaskResult


@dataclass(frozen=True)
class Body:
    """What is sent."""

    data: bytes
    media_type: str = "application/json"
    file_name: str | None = None
    """What a browser saves it as; None: nothing to save."""


@dataclass(frozen=True)
class Wanted:
    """What a request wants its answer to be."""

    parameters: PictureParameters
    formats: tuple[str, ...]
    max_bytes: int
    """Most bytes of an answer's files together."""
    picture: Callable[[], NDArray[np.uint8]]
    """Decodes the picture again, (H, W, 3) uint8 RGB and oriented: most formats do without, and pixels are large."""
    packing: Literal["zip", "multipart"] = "zip"
    """How several files become one answer."""


def render_picture(picture: SegmentedPicture, request_id: str, wanted: Wanted) -> Body:
    """The answer of /segment.

    Raises:
        InvalidParameter: a format cannot hold the segments.
        AnswerTooLarge: more than `max_bytes`.
    """
    picture, cleaning = cleaned(picture, wanted.parameters)
    json = segment_response(picture, request_id, cleaning).model_dump_json().encode()
    if wanted.formats == ("json",):
        return Body(json)
    from proscale_service.answer_files import format_options, make_files, packed  # here: plain answers need none of the formats

    options = format_options(wanted.parameters, request_id)
    results = tuple(picture.computed.prediction.results.values())
    made = make_files(results, wanted.formats, options, wanted.picture, wanted.max_bytes)
    return Body(*packed(made, wanted.formats, json, wanted.packing))


def render_batch(pictures: Sequence[SegmentedPicture | ServiceError], path: str, request_id: str, parameters: SegmentParameters) -> Body:
    """The answer of /segment/batch. Args: pictures: in the order of the request; path: the request's, for its problems."""
    items = [
        BatchItem(index=i, error=responses.Problem(**problem(picture, path, request_id)))
        if isinstance(picture, ServiceError)
        else BatchItem(index=i, result=_cleaned_response(picture, request_id, parameters))
        for i, picture in enumerate(pictures)
    ]
    return Body(BatchResponse(id=request_id, items=items).model_dump_json().encode())


def cleaned(picture: SegmentedPicture, parameters: SegmentParameters) -> tuple[SegmentedPicture, responses.Cleaning | None]:
    """The picture with clean segments, and what was done; as it was when nothing was asked for."""
    options = cleaning_of(parameters, picture.computed.info)
    if options is None:
        return picture, None
    prediction = picture.computed.prediction
    done = {task: clean(result, options) for task, result in prediction.results.items()}
    cleaning = responses.Cleaning(
        dropped_small=sum(each.dropped_small for each in done.values()),
        dropped_duplicates=sum(each.dropped_duplicates for each in done.values()),
        filled_pixels=sum(each.filled_pixels for each in done.values()),
        removed_pixels=sum(each.removed_pixels for each in done.values()),
        merged_segments=sum(each.merged_segments for each in done.values()),
    )
    left = replace(prediction, results={task: each.segmentation for task, each in done.items()})
    return replace(picture, computed=replace(picture.computed, prediction=left)), cleaning


def _cleaned_response(picture: SegmentedPicture, request_id: str, parameters: SegmentParameters) -> SegmentResponse:
    picture, cleaning = cleaned(picture, parameters)
    return segment_response(picture, request_id, cleaning)


def segment_response(picture: SegmentedPicture, request_id: str, cleaning: responses.Cleaning | None = None) -> SegmentResponse:
    """One picture's answer: `segments` when one task was asked, `results` when several were."""
    prediction = picture.computed.prediction
    results = prediction.results
    single = next(iter(results)) if len(results) == 1 else None
    seconds = {"decode": picture.decode_seconds, "queue": picture.computed.queue_seconds} | dict(prediction.timings)
    return SegmentResponse(
        id=request_id,
        task=single,
        image=_image(picture.header, picture.warnings),
        segments=_segments(results[single]) if single else None,
        results=None if single else {task: TaskResult(segments=_segments(result)) for task, result in results.items()},
        cleaning=cleaning,
        model=_summary(picture.computed.info),
        compute=responses.Compute(**_cost(prediction.plan), batch_size=picture.computed.batch_size, degraded=False),
        timings_ms=responses.Timings(**{stage: round(seconds.get(stage, 0.0) * 1e3, 3) for stage in responses.Timings.model_fields}),
    )


def plan_response(
    header: Header, tasks: Sequence[Task], plan: Plan, seconds: float | None, info: ModelInfo, request_id: str
) -> PlanResponse:
    """The answer of /segment/plan. Args: seconds: expected until the masks; None: not known yet."""
    return PlanResponse(
        id=request_id,
        image=_image(header),
        tasks=list(tasks),
        resized_size=plan.resized,
        compute=responses.Cost(**_cost(plan)),
        expected_ms=None if seconds is None else round(seconds * 1e3, 1),
        model=_summary(info),
    )


def models_response(models: Models) -> ModelsResponse:
    """The served models that can compute now, with their labels."""
    return ModelsResponse(models=[_served(model, models.state(model)) for model in models if model.engine.capacity])


def _served(model: Model, state: Literal["ready", "replacing", "unavailable"]) -> responses.ServedModel:
    info = model.info
    height, width = responses.REFERENCE_SIZE
    return responses.ServedModel(
        **_summary(info).model_dump(),
        backbone=info.backbone,
        tasks=list(info.tasks),
        categories=[responses.Category(id=c.id, name=c.name, isthing=c.isthing) for c in info.categories],
        origin=None if info.provenance is None else responses.Origin(**asdict(info.provenance)),
        state="replacing" if state == "replacing" else "ready",
        flops=model.engine.plan(height, width, info.tasks[:1]).flops,
    )


def _image(header: Header, warnings: Sequence[str] = ()) -> responses.Image:
    return responses.Image(
        width=header.width, height=header.height, orientation_applied=header.orientation, warnings=list(warnings) or None
    )


def _segments(segmentation: Segmentation) -> list[responses.Segment]:
    return [
        responses.Segment(
            id=segment.id,
            category_id=segment.category_id,
            label=segment.label,
            isthing=segment.isthing,
            score=round(segment.score, 6),
            bbox=segment.bbox,
            area=segment.area,
            segmentation=responses.Mask(size=segment.segmentation.size, counts=segment.segmentation.counts),
        )
        for segment in segmentation.segments
    ]


def _cost(plan: Plan) -> dict[str, Any]:
    """The fields of `responses.Cost`."""
    saved = 1 - plan.flops / plan.baseline_flops if plan.baseline_flops else 0.0
    return {
        "flops": plan.flops,
        "baseline": plan.baseline,
        "baseline_flops": plan.baseline_flops,
        "saved_ratio": round(saved, 4),
        "padded_size": plan.padded,
        "tiles": None if plan.tiles is None else responses.Tiles(**asdict(plan.tiles)),
    }


def _summary(info: ModelInfo) -> ModelSummary:
    return ModelSummary(name=info.name, encoder=info.encoder, layers=list(info.layers))
