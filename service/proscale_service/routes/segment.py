"""POST /segment, /segment/batch and /segment/plan."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from proscale.pictures import Header
from proscale.tracing import current_span
from proscale_service.access.guard import quota_of, with_priority
from proscale_service.access.quota import Quota
from proscale_service.answer_files import check_formats
from proscale_service.context import RequestContext, context_of
from proscale_service.engines.costs import Work
from proscale_service.errors import InvalidParameter, MalformedRequest, ServiceError
from proscale_service.images import read_header, read_picture
from proscale_service.limits import unless_client_leaves
from proscale_service.metrics import task_label
from proscale_service.options import options_of, plan_of, tasks_of
from proscale_service.pipeline import Pipeline, SegmentedPicture, note_pictures
from proscale_service.rendering import Body, Wanted, plan_response, render_batch, render_picture
from proscale_service.requests import PictureParameters, PlanParameters, SegmentParameters, parse_parameters
from proscale_service.responses import BatchResponse, PlanResponse, SegmentResponse
from proscale_service.routes.dependencies import GetPipeline
from proscale_service.routes.inputs import KINDS, Input, read_input, require_any, require_picture
from proscale_service.routes.openapi import FILES, picture_request, problems, query_request
from proscale_service.spans import span_answer
from proscale_service.windows import work_of

A = ParamSpec("A")
P = TypeVar("P", bound=BaseModel)

router = APIRouter(tags=["segmentation"])


@router.post(
    "/segment",
    summary="Segment one picture",
    response_model=SegmentResponse,
    responses=problems(400, 404, 408, 413, 415, 422, 429, 500, 503, 504) | FILES,
    openapi_extra=picture_request(PictureParameters),
)
async def segment(request: Request, pipeline: GetPipeline) -> Response:
    """The segments of a picture: label, score and mask, as COCO run-length encoding or in `format`."""
    context = context_of(request.scope)
    given, parameters = await _given(request, pipeline, PictureParameters)
    tasks = parameters.tasks_of(pipeline.models.find(parameters.model).info)
    context.task = task_label(tasks)
    parameters = with_priority(request.scope, parameters)
    accept = request.headers.get("accept", "")
    if (formats := parameters.formats(accept)) != ("json",):
        check_formats(formats, tasks)
    picture = require_picture(given)
    settings = pipeline.settings
    wanted = Wanted(
        parameters,
        formats,
        settings.max_answer_bytes,
        lambda: read_picture(picture, settings.max_pixels, parameters.spread).rgb,
        parameters.packing(accept),
    )
    work = _answer(pipeline, picture, wanted, context, quota_of(request.scope))
    return _response(await unless_client_leaves(request.receive, work))


async def _answer(pipeline: Pipeline, picture: bytes, wanted: Wanted, context: RequestContext, quota: Quota) -> Body:
    segmented = await pipeline.segment(picture, wanted.parameters, context.arrived, quota)
    note_pictures(context, [segmented])
    return await _render(pipeline, [segmented], render_picture, segmented, context.id, wanted)


def _response(body: Body) -> Response:
    headers = (
        {} if body.file_name is None else {"content-disposition": f"inline; filename*=UTF-8''{quote(body.file_name.rpartition('/')[2])}"}
    )
    return Response(body.data, media_type=body.media_type, headers=headers)


@router.post(
    "/segment/batch",
    summary="Segment several pictures",
    response_model=BatchResponse,
    responses=problems(400, 404, 408, 413, 415, 422, 429, 500, 503),
    openapi_extra=picture_request(SegmentParameters, many=True),
)
async def segment_batch(request: Request, pipeline: GetPipeline) -> Response:
    """Segments of several pictures with the same parameters. Each picture has its own result or its own error."""
    context = context_of(request.scope)
    pipeline.enter()
    given, parameters = await _given(request, pipeline, SegmentParameters, max(2, pipeline.settings.max_items))
    info = pipeline.models.find(parameters.model).info
    context.task = task_label(parameters.tasks_of(info))
    options_of(parameters, info)  # what is wrong with every picture's parameters is wrong with the request
    parameters = with_priority(request.scope, parameters)
    require_any(given)
    quota = quota_of(request.scope)

    async def item(picture: bytes | ServiceError) -> SegmentedPicture | ServiceError:
        try:
            if isinstance(picture, ServiceError):
                raise picture
            return await pipeline.segment(picture, parameters, context.arrived, quota)
        except ServiceError as error:
            pipeline.metrics.rejected.labels(error.reason).inc()
            return error

    async def answer() -> Body:
        items = await asyncio.gather(*map(item, given.pictures))
        done = [each for each in items if isinstance(each, SegmentedPicture)]
        note_pictures(context, done)
        return await _render(pipeline, done, render_batch, items, request.url.path, context.id, parameters)

    return _response(await unless_client_leaves(request.receive, answer()))


async def _render(
    pipeline: Pipeline, done: Sequence[SegmentedPicture], render: Callable[A, Body], *args: A.args, **kwargs: A.kwargs
) -> Body:
    """Write the answer on a reading thread. Writing and encoding masks is timed and divided evenly among the pictures."""

    def timed() -> tuple[Body, float]:
        started = time.perf_counter()
        return render(*args, **kwargs), time.perf_counter() - started

    body, seconds = await pipeline.in_pool(timed)
    if current_span() is not None:
        span_answer(seconds)
    for picture in done:
        pipeline.metrics.stage("encode", picture.computed.prediction.timings.get("encode", 0.0) + seconds / len(done))
    return body


@router.get(
    "/segment/plan",
    summary="Cost of a picture of a given size",
    response_model=PlanResponse,
    responses=problems(404, 422, 503),
    openapi_extra=query_request(PlanParameters, required=("width", "height")),
)
async def plan_size(request: Request, pipeline: GetPipeline) -> PlanResponse:
    """Padded size, FLOPs and expected time of a picture of `width` x `height` pixels."""
    return await plan(request, pipeline)


@router.post(
    "/segment/plan",
    summary="Cost of a picture",
    response_model=PlanResponse,
    responses=problems(400, 404, 408, 413, 415, 422, 503),
    openapi_extra=picture_request(PlanParameters, instead=("width", "height")),
)
async def plan(request: Request, pipeline: GetPipeline) -> PlanResponse:
    """Padded size, FLOPs and expected time, from the first bytes of a picture's file, or from `width` and `height`."""
    pipeline.models.any()
    given, parameters = await _given(request, pipeline, PlanParameters)
    if given.pictures:
        if {"width", "height"} & given.body.keys():
            raise InvalidParameter("width and height: not together with a picture")
        header = await pipeline.in_pool(read_header, require_picture(given), pipeline.settings.max_pixels)
    elif parameters.width is not None and parameters.height is not None:
        header = Header("", parameters.height, parameters.width, orientation=1)
    elif parameters.width is not None or parameters.height is not None:
        raise InvalidParameter("width and height: give both or neither")
    else:
        raise MalformedRequest(f"there is neither a picture nor width and height; send {KINDS}")
    model = pipeline.models.find(parameters.model)
    engine, tasks = model.engine, tasks_of(parameters, model.info)
    planned, layout = plan_of(parameters, (header.height, header.width), engine, tasks)
    work = Work(planned, header.height * header.width, tuple(tasks)) if layout is None else work_of(layout, tasks)
    seconds = engine.backlog.expected_seconds(work)
    return plan_response(header, tasks, planned, seconds, model.info, context_of(request.scope).id)


async def _given(request: Request, pipeline: Pipeline, cls: type[P], max_pictures: int = 1) -> tuple[Input, P]:
    given = await read_input(
        request,
        pipeline.in_pool,
        max_pictures,
        known=cls.model_fields,
        ignored=pipeline.settings.ignored_query_names,
        fetcher=request.app.state.fetcher,
    )
    parse_parameters(cls, given.query)  # a value that is overridden must be right, too
    return given, parse_parameters(cls, given.query | given.body)
