"""What the service raises on purpose, and the one place where an error becomes an HTTP answer (RFC 9457 problem+json).

ServiceError                    500
├── MalformedRequest            400   the body is not what its content type says
├── Unauthorized                401   no valid API key
├── Forbidden                   403   a valid API key that may not do this
├── UnknownModel                404   a model that is not served here
├── NotAcceptable               406   no encoding of the answer is one that the client takes
├── UploadTimeout               408   the body came too slowly
├── Conflict                    409   a model cannot be changed now
├── TooLarge                    413
│   ├── BodyTooLarge                  bytes
│   ├── TooManyPixels                 pixels, by the picture's header
│   └── AnswerTooLarge                bytes of the asked formats
├── UnsupportedMedia            415   a content type or encoding that is not supported
├── Unprocessable               422
│   ├── UnfetchablePicture            a URL that is not allowed, or gives no picture
│   ├── UndecodableImage              not a picture, a broken one, or a kind that cannot be shown as RGB
│   └── InvalidParameter              unknown name, value out of range, label that the model does not have
├── Overloaded                  429   queue or buffers are full; Retry-After tells when to come back
│   ├── BacklogTooLong                the picture would not be done by its deadline
│   └── QuotaExceeded                 the API key has used what it may
├── Unavailable                 503
│   ├── Loading                       the model is not there yet
│   └── Draining                      the server is going down
├── DeadlineExceeded            504   not done by the deadline that the request named
├── NotEnoughMemory             507   a model that would not fit
├── ClientGone                  499   nobody waits for the answer; never sent, only logged
└── EngineFailure               500   the network failed on this picture

The client raises the same classes, so that what the server meant is what the caller catches.
"""

# ruff: noqa: N818  (the names say what happened, as the status texts do; "Error" behind each would add nothing)

import json
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote

PROBLEM_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:proscale:problem:"


class ServiceError(Exception):
    """Base of every error with an HTTP status. Its text is the `detail` of the answer and is meant for the caller."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    """Short name: the last part of the problem's `type`, and the `reason` label of `proscale_rejected_total`."""
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after: int | None = None, request_id: str | None = None) -> None:
        """Args: detail: one sentence or two; retry_after: seconds; request_id: set by the client, from the server's answer."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.request_id = request_id


class MalformedRequest(ServiceError):
    """The body or its framing cannot be read."""

    status, reason, title = 400, "malformed", "Malformed request"


class Unauthorized(ServiceError):
    """No API key, or none that is known here."""

    status, reason, title = 401, "unauthorized", "Not authorized"


class Forbidden(ServiceError):
    """The API key is known, and has no right to do this."""

    status, reason, title = 403, "forbidden", "Not allowed"


class UnknownModel(ServiceError):
    """The request names a model that is not served here."""

    status, reason, title = 404, "unknown_model", "Unknown model"


class NotAcceptable(ServiceError):
    """The client's Accept-Encoding forbids every encoding of an answer."""

    status, reason, title = 406, "not_acceptable", "Not acceptable"


class UploadTimeout(ServiceError):
    """The body did not arrive in time."""

    status, reason, title = 408, "upload_timeout", "Upload too slow"


class Conflict(ServiceError):
    """The models are such that this cannot be done to one of them now."""

    status, reason, title = 409, "conflict", "Not possible now"


class TooLarge(ServiceError):
    """More than the service takes."""

    status, reason, title = 413, "too_large", "Too large"


class BodyTooLarge(TooLarge):
    """More bytes than `max_upload_bytes`."""

    reason, title = "too_many_bytes", "Body too large"


class TooManyPixels(TooLarge):
    """More pixels than `max_pixels`."""

    reason, title = "too_many_pixels", "Picture too large"


class AnswerTooLarge(TooLarge):
    """More bytes than `max_answer_bytes`."""

    reason, title = "answer_too_large", "Answer too large"


class UnsupportedMedia(ServiceError):
    """A content type or content encoding that the service does not take."""

    status, reason, title = 415, "unsupported_media", "Unsupported media type"


class Unprocessable(ServiceError):
    """The request can be read, but not done."""

    status, reason, title = 422, "unprocessable", "Unprocessable request"


class UnfetchablePicture(Unprocessable):
    """A picture's URL is not allowed, or nothing could be had from it."""

    reason, title = "unfetchable_picture", "Picture cannot be fetched"


class UndecodableImage(Unprocessable):
    """The bytes are no picture, a broken one, or one that has no meaning as RGB."""

    reason, title = "undecodable_image", "Picture cannot be decoded"


class InvalidParameter(Unprocessable):
    """A parameter is unknown, out of range, or given twice."""

    reason, title = "invalid_parameter", "Invalid parameter"


class Overloaded(ServiceError):
    """Too much work is waiting; nothing was computed."""

    status, reason, title = 429, "overloaded", "Too many requests"


class BacklogTooLong(Overloaded):
    """The picture would not be done by its deadline; nothing was computed."""

    reason, title = "backlog", "Too much work for the deadline"


class QuotaExceeded(Overloaded):
    """The API key has used its requests, pixels or places; nothing was computed."""

    reason, title = "quota", "Quota used up"


class Unavailable(ServiceError):
    """The service cannot answer now."""

    status, reason, title = 503, "unavailable", "Service unavailable"


class Loading(Unavailable):
    """The model is being loaded."""

    reason, title = "loading", "Model is loading"


class Draining(Unavailable):
    """The server is shutting down."""

    reason, title = "draining", "Server is shutting down"


class DeadlineExceeded(ServiceError):
    """The deadline passed before the answer was ready."""

    status, reason, title = 504, "deadline", "Deadline exceeded"


class NotEnoughMemory(ServiceError):
    """A model needs more memory than there is; nothing was loaded."""

    status, reason, title = 507, "not_enough_memory", "Not enough memory"


class ClientGone(ServiceError):
    """The client closed the connection; 499 is nginx's number for it and is only ever logged."""

    status, reason, title = 499, "client_gone", "Client closed the connection"


class EngineFailure(ServiceError):
    """The network failed on this picture; what happened is in the server's log."""

    reason, title = "engine_failure", "Segmentation failed"


ErrorForm = Callable[[ServiceError], Mapping[str, Any]]
"""What a dialect's JSON says about an error."""


def form_at(forms: Mapping[str, ErrorForm], path: str) -> ErrorForm | None:
    """How errors look at a path; None: as problem+json. Args: forms: by the path that a dialect lives at and below."""
    return next((form for root, form in forms.items() if path == root or path.startswith(f"{root}/")), None)


def all_errors(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """`base` and everything below it."""
    yield base
    for child in base.__subclasses__():
        yield from all_errors(child)


def problem(error: ServiceError, instance: str, request_id: str) -> dict[str, Any]:
    """The RFC 9457 record of an error.

    Args:
        instance: path of the request, decoded; it is percent-encoded here.
        request_id: what to quote when asking for help.
    """
    return {
        "type": _TYPE_PREFIX + error.reason.replace("_", "-"),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": _uri(instance),
        "request_id": request_id,
    }


def plain_problem(status: int, detail: str, instance: str, request_id: str) -> dict[str, Any]:
    """The record of an HTTP error that has no class here (404, 405 ...)."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": _uri(instance), "request_id": request_id}


def encode_problem(record: dict[str, Any]) -> bytes:
    """JSON of a problem. ASCII only: a detail may quote what the caller sent, lone surrogates included, which UTF-8 cannot hold."""
    return json.dumps(record, ensure_ascii=True).encode("ascii")


def error_from_problem(status: int, body: dict[str, Any], retry_after: int | None = None) -> ServiceError:
    """The error that a problem record stands for: by its `type`, else by its status, else the base class."""
    by_reason = {error.reason: error for error in all_errors()}
    by_status = {error.status: error for error in reversed(list(all_errors()))}
    kind = str(body.get("type", "")).removeprefix(_TYPE_PREFIX).replace("-", "_")
    cls = by_reason.get(kind) or by_status.get(status, ServiceError)
    detail = str(body.get("detail") or body.get("title") or f"HTTP status {status}")
    return cls(detail, retry_after=retry_after, request_id=str(body["request_id"]) if "request_id" in body else None)


def _uri(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=~-._", errors="replace")
