"""POST /segment, /segment/batch and /segment/plan."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from proscale.results import Plan
from proscale_service.access.guard import quota_of
from proscale_service.access.quota import Quota
from proscale_service.context import RequestContext, context_of
from proscale_service.errors import InvalidParameter, ServiceError, problem
from proscale_service.limits import unless_client_leaves
from proscale_service.metrics import task_label
from proscale_service.pipeline import Outcome, Pipeline
from proscale_service.routes.inputs import Input, read_input, require_picture
from proscale_service.routes.openapi import picture_request, problems
from proscale_service.schemas import (
    BatchItem,
    BatchResponse,
    ComputeModel,
    CostModel,
    PlanParameters,
    PlanResponse,
    ProblemModel,
    ResultModel,
    SegmentParameters,
    SegmentResponse,
    TimingsModel,
    cost,
    image_model,
    parse_parameters,
    segment_models,
    summary,
)

router = APIRouter(tags=["segmentation"])


def pipeline_of(request: Request) -> Pipeline:
    """The application's pipeline."""
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


GetPipeline = Annotated[Pipeline, Depends(pipeline_of)]


@router.post(
    "/segment",
    summary="Segment one picture",
    response_model=SegmentResponse,
    responses=problems(400, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=picture_request(SegmentParameters),
)
async def segment(request: Request, pipeline: GetPipeline) -> Response:
    """Masks of everything in a picture: what it is, how sure that is, and where, as COCO run-length encoding."""
    context = context_of(request.scope)
    pipeline.engine()
    pipeline.admission.check()
    given = await _input(request, pipeline, SegmentParameters)
    parameters = parse_parameters(SegmentParameters, given.values)
    context.task = task_label(parameters.tasks)
    picture = require_picture(given)
    body = await unless_client_leaves(request.receive, _segment_one(pipeline, picture, parameters, context, quota_of(request.scope)))
    return Response(body, media_type="application/json")


async def _segment_one(pipeline: Pipeline, picture: bytes, parameters: SegmentParameters, context: RequestContext, quota: Quota) -> bytes:
    outcome = await pipeline.segment(picture, parameters, context.arrived, quota)
    body, seconds = await pipeline.in_pool(_render, outcome, context.id)
    pipeline.metrics.stage("encode", outcome.prediction.timings.get("encode", 0.0) + seconds)
    return body


@router.post(
    "/segment/batch",
    summary="Segment several pictures",
    response_model=BatchResponse,
    responses=problems(400, 408, 413, 415, 422, 429, 500, 503),
    openapi_extra=picture_request(SegmentParameters, many=True),
)
async def segment_batch(request: Request, pipeline: GetPipeline) -> Response:
    """Several pictures with the same parameters. Every picture has its own answer or its own problem; one that fails spoils no other."""
    context = context_of(request.scope)
    pipeline.engine()
    pipeline.admission.check()
    given = await _input(request, pipeline, SegmentParameters, max(2, pipeline.settings.max_items))
    parameters = parse_parameters(SegmentParameters, given.values)
    context.task = task_label(parameters.tasks)
    require_picture(given)
    quota = quota_of(request.scope)
    items = await unless_client_leaves(
        request.receive,
        _all_of([_item(pipeline, i, picture, parameters, context, request.url.path, quota) for i, picture in enumerate(given.pictures)]),
    )
    answer = BatchResponse(id=context.id, items=items)
    return Response(await pipeline.in_pool(answer.model_dump_json, exclude_none=True), media_type="application/json")


async def _all_of(items: list[Any]) -> list[BatchItem]:
    return list(await asyncio.gather(*items))


async def _item(
    pipeline: Pipeline, index: int, picture: bytes, parameters: SegmentParameters, context: RequestContext, path: str, quota: Quota
) -> BatchItem:
    try:
        outcome = await pipeline.segment(picture, parameters, context.arrived, quota)
    except ServiceError as error:
        pipeline.metrics.rejected.labels(error.reason).inc()
        return BatchItem(index=index, error=ProblemModel(**problem(error, path, context.id)))
    pipeline.metrics.stage("encode", outcome.prediction.timings.get("encode", 0.0))
    return BatchItem(index=index, result=_answer(outcome, context.id))


@router.post(
    "/segment/plan",
    summary="What a picture would cost",
    response_model=PlanResponse,
    responses=problems(400, 408, 413, 415, 422, 503),
    openapi_extra=picture_request(PlanParameters, required=False),
)
async def plan(request: Request, pipeline: GetPipeline) -> PlanResponse:
    """Padded size, FLOPs and expected time, from a picture's header (its first kilobytes suffice) or from `width` and `height`."""
    engine = pipeline.engine()
    given = await _input(request, pipeline, PlanParameters)
    parameters = parse_parameters(PlanParameters, given.values)
    orientation = 1
    if parameters.width is not None and parameters.height is not None:
        if given.pictures:
            raise InvalidParameter("width and height: not together with a picture")
        height, width = parameters.height, parameters.width
    elif parameters.width is not None or parameters.height is not None:
        raise InvalidParameter("width and height: give both or neither")
    else:
        header = await pipeline.header(require_picture(given))
        height, width, orientation = header.height, header.width, header.orientation
    planned = engine.plan(height, width, parameters.tasks)
    seconds = pipeline.expected_seconds(planned.flops)
    return PlanResponse(
        id=context_of(request.scope).id,
        image=image_model(height, width, orientation),
        tasks=list(parameters.tasks),
        resized_size=planned.resized,
        compute=CostModel(**cost(planned)),
        expected_ms=None if seconds is None else round(seconds * 1e3, 1),
        model=summary(engine.info),
    )


async def _input(request: Request, pipeline: Pipeline, parameters: type[BaseModel], max_pictures: int = 1) -> Input:
    return await read_input(
        request, pipeline.in_pool, max_pictures, known=parameters.model_fields, ignored=pipeline.settings.ignored_query_names
    )


def _render(outcome: Outcome, request_id: str) -> tuple[bytes, float]:
    """The answer as JSON, and the seconds that it took; on a decoding thread, for hundreds of masks are megabytes."""
    started = time.perf_counter()
    body = _answer(outcome, request_id).model_dump_json(exclude_none=True).encode()
    return body, time.perf_counter() - started


def _answer(outcome: Outcome, request_id: str) -> SegmentResponse:
    results = outcome.prediction.results
    single = next(iter(results)) if len(results) == 1 else None
    used: Plan = outcome.prediction.plan
    seconds = {"decode": outcome.decode_seconds, "queue": outcome.queue_seconds} | dict(outcome.prediction.timings)
    return SegmentResponse(
        id=request_id,
        task=single,
        image=image_model(outcome.header.height, outcome.header.width, outcome.header.orientation),
        segments=segment_models(results[single]) if single else None,
        results=None if single else {task: ResultModel(segments=segment_models(result)) for task, result in results.items()},
        model=summary(outcome.info),
        compute=ComputeModel(**cost(used), batch_size=outcome.batch_size, degraded=False),
        timings_ms=TimingsModel(**{stage: round(seconds.get(stage, 0.0) * 1e3, 3) for stage in TimingsModel.model_fields}),
    )
