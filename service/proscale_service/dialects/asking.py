"""What the dialects share: JSON bodies, a picture through the pipeline, errors in a form of their own."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from proscale_service.access.guard import check_right, quota_of, with_priority
from proscale_service.context import context_of, note_refusal, retry_header
from proscale_service.errors import ClientGone, ErrorForm, MalformedRequest, ServiceError
from proscale_service.limits import unless_client_leaves
from proscale_service.metrics import task_label
from proscale_service.pipeline import Pipeline, SegmentedPicture, note_pictures
from proscale_service.rendering import cleaned
from proscale_service.requests import SegmentParameters, parse_parameters
from proscale_service.responses import Cleaning

T = TypeVar("T")
Route = Callable[[Request], Awaitable[Response]]


def pipeline_of(request: Request) -> Pipeline:
    """The application's pipeline."""
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


async def body_of(request: Request) -> bytes:
    """The request's body.

    Raises:
        ClientGone: the client left while it sent.
        ServiceError: whatever limits.BodyLimit raises.
    """
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise ClientGone("the client closed the connection while sending") from error


def json_object(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MalformedRequest: it is something else.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MalformedRequest(f"the JSON body must be an object, not {type(values).__name__}")
    return values


async def segment(request: Request, pictures: Sequence[bytes], values: Mapping[str, Any]) -> list[tuple[SegmentedPicture, Cleaning | None]]:
    """Segment a request's pictures at once; they are given up when the client leaves.

    Args:
        values: parameters of /segment by name, those that are None left out.

    Returns:
        every picture with its segments as they are after cleaning, and what was done.

    Raises:
        ServiceError: of the first picture that fails; a dialect's answer has no room for some of them.
    """
    check_right(request.scope, "segment")
    pipeline, context = pipeline_of(request), context_of(request.scope)
    pipeline.enter()
    parameters = parse_parameters(SegmentParameters, {name: value for name, value in values.items() if value is not None})
    context.task = task_label(parameters.tasks_of(pipeline.models.find(parameters.model).info))
    parameters = with_priority(request.scope, parameters)
    quota = quota_of(request.scope)
    work = [pipeline.segment(picture, parameters, context.arrived, quota) for picture in pictures]
    done = await unless_client_leaves(request.receive, _all(work))
    note_pictures(context, done)
    if parameters.cleaning is None:
        return [(picture, None) for picture in done]
    return await pipeline.in_pool(lambda: [cleaned(picture, parameters) for picture in done])


async def _all(work: Sequence[Coroutine[Any, Any, SegmentedPicture]]) -> list[SegmentedPicture]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_caught(each)) for each in work]
    done = [task.result() for task in tasks]
    for each in done:
        if isinstance(each, ServiceError):
            raise each
    return [each for each in done if isinstance(each, SegmentedPicture)]


async def _caught(work: Coroutine[Any, Any, SegmentedPicture]) -> SegmentedPicture | ServiceError:
    try:
        return await work
    except ServiceError as error:
        return error


def in_names(detail: str, names: Mapping[str, str]) -> str:
    """An error's text with the parameters as a dialect calls them. Args: names: from ours to the dialect's."""
    return re.sub(r"(^|; )(\w+)(?=: )", lambda found: found[1] + names.get(found[2], found[2]), detail)


def in_form(body: ErrorForm) -> Callable[[Route], Route]:
    """Answer a route's errors in a dialect's form. Args: body: the JSON of an error."""

    def decorate(route: Route) -> Route:
        @wraps(route)
        async def wrapped(request: Request) -> Response:
            try:
                return await route(request)
            except ClientGone:
                raise
            except ServiceError as error:
                note_refusal(error, context_of(request.scope))
                return JSONResponse(dict(body(error)), error.status, retry_header(error))

        return wrapped

    return decorate
