"""What was computed -> answers as JSON. Runs on a reading thread, because hundreds of masks are megabytes of text."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from proscale.config import Task
from proscale.pictures import Header
from proscale.results import ModelInfo, Plan, Segmentation
from proscale_service import responses
from proscale_service.errors import ServiceError, problem
from proscale_service.pipeline import SegmentedPicture
from proscale_service.responses import BatchItem, BatchResponse, ModelsResponse, ModelSummary, PlanResponse, SegmentResponse, TaskResult


def render_picture(picture: SegmentedPicture, request_id: str) -> bytes:
    """The answer of /segment."""
    return segment_response(picture, request_id).model_dump_json(exclude_none=True).encode()


def render_batch(pictures: Sequence[SegmentedPicture | ServiceError], path: str, request_id: str) -> bytes:
    """The answer of /segment/batch. Args: pictures: in the order of the request; path: the request's, for its problems."""
    items = [
        BatchItem(index=i, error=responses.Problem(**problem(picture, path, request_id)))
        if isinstance(picture, ServiceError)
        else BatchItem(index=i, result=segment_response(picture, request_id))
        for i, picture in enumerate(pictures)
    ]
    return BatchResponse(id=request_id, items=items).model_dump_json(exclude_none=True).encode()


def segment_response(picture: SegmentedPicture, request_id: str) -> SegmentResponse:
    """One picture's answer: `segments` when one task was asked, `results` when several were."""
    prediction = picture.computed.prediction
    results = prediction.results
    single = next(iter(results)) if len(results) == 1 else None
    seconds = {"decode": picture.decode_seconds, "queue": picture.computed.queue_seconds} | dict(prediction.timings)
    return SegmentResponse(
        id=request_id,
        task=single,
        image=_image(picture.header),
        segments=_segments(results[single]) if single else None,
        results=None if single else {task: TaskResult(segments=_segments(result)) for task, result in results.items()},
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


def models_response(infos: Sequence[ModelInfo]) -> ModelsResponse:
    """All served models with their labels."""
    return ModelsResponse(
        models=[
            responses.ServedModel(
                **_summary(info).model_dump(),
                backbone=info.backbone,
                tasks=list(info.tasks),
                categories=[responses.Category(id=c.id, name=c.name, isthing=c.isthing) for c in info.categories],
                origin=None if info.provenance is None else responses.Origin(**asdict(info.provenance)),
            )
            for info in infos
        ]
    )


def _image(header: Header) -> responses.Image:
    return responses.Image(width=header.width, height=header.height, orientation_applied=header.orientation)


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
    return {"flops": plan.flops, "baseline_flops": plan.baseline_flops, "saved_ratio": round(saved, 4), "padded_size": plan.padded}


def _summary(info: ModelInfo) -> ModelSummary:
    return ModelSummary(name=info.name, encoder=info.encoder, layers=list(info.layers))
