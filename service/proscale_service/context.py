"""Around every request: an id, one log line, the request metrics, and an answer even when our own code fails."""

import asyncio
import logging
import os
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proscale.tracing import Span, Tracer
from proscale_service import logs
from proscale_service.errors import PROBLEM_TYPE, ClientGone, ErrorForm, ServiceError, Unauthorized, encode_problem, problem
from proscale_service.metrics import Metrics
from proscale_service.request_line import route_path

_LOG = logging.getLogger(__name__)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_COUNTED = ("/segment", "/segment/batch", "/hf", "/infer/instance_segmentation")
_QUIET = ("/health", "/metrics")


def _segments(path: str) -> bool:
    """Whether a POST to a path asks for masks, in whichever dialect."""
    return path in _COUNTED or path.startswith("/hf/") or (path.startswith("/v2/models/") and path.endswith("/infer"))


@dataclass
class RequestContext:
    """What is known about a request besides HTTP; at `scope["state"]["context"]`."""

    id: str
    arrived: float
    """When the request came, in seconds of the event loop's clock: what deadlines count from."""
    task: str = "unknown"
    """Label for metrics: `metrics.task_label` of what was asked, once that is known."""
    rejected: str | None = None
    """Why there are no masks: an error's `reason`."""
    key: str | None = None
    """Id of the API key, which tells nothing of the key or its name."""
    key_class: str = "none"
    """Of the API key, by the keys file; `none` without a key."""
    counted: bool = False
    """Whether the request is one of those that metrics are about."""
    noted: dict[str, str | int] = field(default_factory=dict)
    """What the log tells of the pictures: the model, their sizes, the multiply-accumulates spent."""


class RequestContextMiddleware:
    """The outermost layer. Honours a sane `x-request-id`, else makes one; the answer carries it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracer: Tracer | None = None) -> None:
        """Args: tracer: None: no spans are made."""
        self._app, self._metrics, self._tracer = app, metrics, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Not the loop's clock: uvloop's has a resolution of a millisecond.
        started = time.perf_counter()
        counted = scope["method"] == "POST" and _segments(route_path(scope))
        context = RequestContext(_given_id(scope) or new_id(), asyncio.get_running_loop().time(), counted=counted)
        scope.setdefault("state", {})["context"] = context
        logs.REQUEST_ID.set(context.id)  # a task per request, so that nobody else sees it
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", context.id.encode("ascii"))]}
            await send(message)

        failure: BaseException | None = None
        span = None
        if self._tracer is not None and counted:
            span = self._tracer.begin(f"POST {route_path(scope)}", "server", _traceparent(scope))
        try:
            with nullcontext() if span is None else span.current():
                await self._app(scope, receive, send_with_id)
        except ClientGone:
            context.rejected = ClientGone.reason
        except Exception as error:
            failure = error
            context.rejected = ServiceError.reason
            if not status:
                await send_error(
                    scope, send_with_id, ServiceError("an unexpected error; the server's log tells more under this request's id")
                )
        finally:
            status = ClientGone.status if context.rejected == ClientGone.reason else status
            self._finish(scope, context, status, time.perf_counter() - started, failure, span)

    def _finish(
        self, scope: Scope, context: RequestContext, status: int, seconds: float, failure: BaseException | None, span: Span | None
    ) -> None:
        if context.counted:
            self._metrics.request(context.task, status, seconds, span.trace_id if span is not None and span.sampled else "")
            if context.rejected:
                self._metrics.rejected.labels(context.rejected).inc()
                self._metrics.refusals.labels(context.rejected, context.key_class).inc()
        fields = {"id": context.id, "method": scope["method"], "path": scope["path"], "status": status, "ms": seconds * 1e3}
        fields |= {name: value for name, value in (("key", context.key), ("reason", context.rejected)) if value} | context.noted
        if span is not None:
            fields["trace"] = span.trace_id
            # Of 4xx the caller is the cause, so that to the service they are no errors.
            attributes = {"http.request.method": scope["method"], "url.path": scope["path"], "http.response.status_code": status}
            span.end(error=(context.rejected or "error") if status >= ServiceError.status else "", request_id=context.id, **attributes)
        # A flood of guesses shows in the metrics; in the log it would only bury the rest.
        quiet = (route_path(scope).startswith(_QUIET) or status == Unauthorized.status) and not failure
        logs.event(_LOG, logging.ERROR if failure else logging.DEBUG if quiet else logging.INFO, "request", error=failure, **fields)


def context_of(scope: Scope) -> RequestContext:
    """The context of the request that `scope` belongs to."""
    context: RequestContext = scope["state"]["context"]
    return context


def new_id() -> str:
    """A ULID: 48 bits of milliseconds and 80 random bits in Crockford's base 32, so that ids sort by time."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def _given_id(scope: Scope) -> str | None:
    value = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    # Anything else could forge log lines or headers.
    return value.decode("ascii") if _GIVEN_ID.fullmatch(value) else None


def _traceparent(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")


def note_refusal(error: ServiceError, context: RequestContext) -> None:
    """Keep why a request got no masks, and log what is the service's own fault."""
    context.rejected = error.reason
    if error.status == ServiceError.status:
        logs.event(_LOG, logging.ERROR, error.detail, error=error.__cause__ or error, id=context.id)


def retry_header(error: ServiceError) -> dict[str, str]:
    """The header that says when to come back, where the error knows."""
    return {} if error.retry_after is None else {"retry-after": str(error.retry_after)}


async def send_error(scope: Scope, send: Send, error: ServiceError, form: ErrorForm | None = None) -> None:
    """Answer with an error from a layer around the application, whose own handlers are further inside.

    Args:
        form: of the dialect that is spoken at this path; None: problem+json.
    """
    context = context_of(scope)
    context.rejected = error.reason
    body = encode_problem(problem(error, scope["path"], context.id) if form is None else dict(form(error)))
    kind = PROBLEM_TYPE if form is None else "application/json"
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    if error.status == Unauthorized.status:
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, 11.6.1: says how to do it right
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
