"""What a client asks and how it reads the answer, for both kinds of client: no connection is used here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Literal, TypedDict
from urllib.parse import unquote

import httpx

from proscale_service.client.answers import Answer, Files, names_of, parse_answer, parse_files
from proscale_service.client.pictures import FetchedByServer, Picture, picture_bytes
from proscale_service.client.retries import MAX_STALE, retry_after
from proscale_service.errors import ServiceError, error_from_problem

KEEP_ALIVE_S = 30.0
"""Idle connections are used again for so long: shorter than the service and most proxies keep them."""
CONNECT_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 100


class SegmentOptions(TypedDict, total=False):
    """Parameters of POST /segment; what is left out, or None, is the service's own default."""

    task: str | Sequence[str] | None
    """panoptic, instance, semantic, or several of them; None: panoptic, or what the model does."""
    threshold: float | None
    mask_threshold: float | None
    overlap_threshold: float | None
    labels: str | Sequence[str] | None
    """Keep only these; None: all. An empty list is an error, as it is in JSON, rather than "all"."""
    max_segments: int | None
    intensity: str | None
    """Which samples are black and white: full, minmax, percentile or "LOW,HIGH"; None: full."""
    priority: Literal["interactive", "normal", "bulk"] | None
    tile: str | None
    """Segment window by window: auto, "SIZE[,OVERLAP[,SCALE]]" in pixels, or joint; None: the picture as a whole."""
    model: str | None
    """Which of the served ones (see `models`); None: the first."""
    deadline_ms: int | None
    """After so many milliseconds an answer is of no use; nor is it waited for longer."""
    min_area: int | None
    fill_holes: int | None
    largest_piece: bool | None
    deduplicate: float | None
    merge_labels: str | Sequence[str] | None
    """One label for several: "vehicle=car|truck"."""
    request_id: str | None
    """For finding the request in the server's log."""


class PlanOptions(TypedDict, total=False):
    """Parameters of POST /segment/plan, as in `SegmentOptions`."""

    task: str | Sequence[str] | None
    tile: str | None
    model: str | None


class FileOptions(SegmentOptions, total=False):
    """Parameters of POST /segment that say how other formats are written."""

    simplify: float | None
    affine: str | Sequence[float] | None
    opacity: float | None
    outlines: bool | None
    names: bool | None


@dataclass(frozen=True)
class Asked:
    """A request, ready to be sent, as often as need be."""

    method: str
    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of httpx's `request`."""
    within_s: float | None = None


def connection_options(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of httpx's clients."""
    return {
        "base_url": url,
        "headers": {} if api_key is None else {"authorization": f"Bearer {api_key}"},
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        "limits": httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_STALE, keepalive_expiry=KEEP_ALIVE_S),
    }


def ask_segments(picture: Picture, options: Mapping[str, Any]) -> Asked:
    """POST /segment for JSON.

    Raises:
        TypeError: an option that there is not.
        Whatever `picture_bytes` raises.
    """
    return _ask_about(picture, options, SegmentOptions)


def ask_files(picture: Picture, formats: str | Sequence[str], options: Mapping[str, Any]) -> Asked:
    """POST /segment for other formats. Errors: as `ask_segments`."""
    affine = options.get("affine")
    given = dict(options) | ({} if affine is None or isinstance(affine, str) else {"affine": ",".join(map(repr, affine))})
    return _ask_about(picture, given, FileOptions, {"format": names_of("format", formats)})


def ask_plan(height: int, width: int, options: Mapping[str, Any]) -> Asked:
    """POST /segment/plan."""
    _check_known(options, PlanOptions)
    query = {"height": height, "width": width} | dict(options) | {"task": names_of("task", options.get("task"))}
    return Asked("POST", "/segment/plan", {"params": _given(query)})


def read_segments(response: httpx.Response) -> Answer:
    """The answer to `ask_segments`. Raises ServiceError, whatever the server said."""
    return parse_answer(checked(response).json())


def read_files(response: httpx.Response) -> Files:
    """The answer to `ask_files`. Raises ServiceError, whatever the server said."""
    media_type = checked(response).headers.get("content-type", "").partition(";")[0]
    header = Message()
    header["content-disposition"] = response.headers.get("content-disposition", "")
    name = unquote(header.get_filename() or "answer.json")
    return parse_files(response.content, media_type, name)


def checked(response: httpx.Response) -> httpx.Response:
    """A good answer. Raises ServiceError: the subclass that says what the server said."""
    if response.is_success:
        return response
    try:
        body = response.json()
    except ValueError:
        body = {}
    seconds = retry_after(response)
    error: ServiceError = error_from_problem(
        response.status_code, body if isinstance(body, dict) else {}, None if seconds is None else round(seconds)
    )
    raise error


def _ask_about(picture: Picture, options: Mapping[str, Any], known: type, more: Mapping[str, Any] | None = None) -> Asked:
    _check_known(options, known)
    query = {name: names_of(name, value) if name in ("task", "labels", "merge_labels") else value for name, value in options.items()}
    request_id, deadline = query.pop("request_id", None), query.get("deadline_ms")
    headers = {} if request_id is None else {"x-request-id": str(request_id)}
    arguments: dict[str, Any] = {"params": _given(query | dict(more or {})), "headers": headers}
    if isinstance(picture, FetchedByServer):
        arguments["json"] = {"image": {"url": picture.url}}
    else:
        arguments["content"] = picture_bytes(picture)
        headers["content-type"] = "application/octet-stream"
    return Asked("POST", "/segment", arguments, None if deadline is None else deadline / 1e3)


def _check_known(options: Mapping[str, Any], known: type) -> None:
    if unknown := sorted(options.keys() - known.__annotations__.keys()):
        raise TypeError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known.__annotations__))}")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
