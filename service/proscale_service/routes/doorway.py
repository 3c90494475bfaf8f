"""The innermost layer: a picture for which there is no model or no time is refused before its request is routed or its body read."""

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from proscale_service.context import context_of, send_error
from proscale_service.engines.backlog import DEFAULT_PRIORITY, PRIORITIES
from proscale_service.errors import ServiceError
from proscale_service.pipeline import Pipeline
from proscale_service.request_line import route_path

_LONGEST_NUMBER = 12


class Doorway:
    """Asks for each picture whether there is a model and room for it, before anything else is done for its request.

    A refusal is what an overloaded service does most, and its cost slows the pictures that were admitted. So it is a layer
    around the application: routing alone costs more than all that is done here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and route_path(scope) == "/segment":
            pipeline: Pipeline = scope["app"].state.pipeline
            try:
                pipeline.enter(*_promise_asked(scope, pipeline))
            except ServiceError as error:
                await send_error(scope, send, error)
                return
        await self._app(scope, receive, send)


def _promise_asked(scope: Scope, pipeline: Pipeline) -> tuple[str | None, float | None, str]:
    """Model, deadline and priority that the query alone decides, for a body that is nothing but a picture; else it may name others."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"image/")
    if not kind.startswith((b"image/", b"application/octet-stream")):
        return None, None, DEFAULT_PRIORITY
    query = QueryParams(scope["query_string"])
    asked, priority = query.get("deadline_ms", ""), query.get("priority", DEFAULT_PRIORITY)
    # What is no number or no priority is reported when all parameters are checked.
    milliseconds = int(asked) if asked.isdecimal() and asked.isascii() and len(asked) < _LONGEST_NUMBER else pipeline.settings.deadline_ms
    deadline = context_of(scope).arrived + milliseconds / 1e3
    return query.get("model") or None, deadline, priority if priority in PRIORITIES else DEFAULT_PRIORITY
