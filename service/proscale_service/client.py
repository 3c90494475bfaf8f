"""A small Python client: pictures in, numpy masks out, the service's own errors raised.

    from proscale_service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        answer = client.segment("cells.png", task="instance", threshold=0.5)
        for segment in answer.segments:
            print(segment.label, segment.score, segment.mask.sum())

For many pictures at once, share one client between threads: it keeps connections open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from proscale import results
from proscale.rle import decode
from proscale_service.client_pictures import Picture, picture_bytes
from proscale_service.errors import InvalidParameter, ServiceError, error_from_problem

__all__ = ["Answer", "Client", "Picture", "Segment", "picture_bytes"]

KEEP_ALIVE_S = 30.0
"""Idle connections are used again for so long: shorter than the service and most proxies keep them."""
MAX_STALE = 20
"""Idle connections that may turn out closed, one after the other, before a request is given up; the pool keeps no more."""


@dataclass(frozen=True)
class Segment(results.Segment):
    """One segment, with its mask."""

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool, at the size of the oriented picture; decoded when first asked for."""
        return decode(self.segmentation)


@dataclass(frozen=True)
class Answer:
    """What came back for one picture."""

    results: Mapping[str, tuple[Segment, ...]]
    """Task -> segments."""
    raw: Mapping[str, Any]
    """The whole JSON answer: image, model, compute, timings_ms ..."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, when one task was asked.

        Raises:
            ValueError: several were; use `results`.
        """
        if len(self.results) != 1:
            raise ValueError(f"several tasks were asked ({', '.join(self.results)}); use results[task]")
        return next(iter(self.results.values()))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the oriented picture and of every mask."""
        return self.raw["image"]["height"], self.raw["image"]["width"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the server says about the picture, such as that it is dark."""
        return tuple(self.raw["image"].get("warnings", ()))


class Client:
    """Talks to one server. Thread-safe; use it as a context manager or call `close`."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 120.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Args: url: such as http://127.0.0.1:8000; timeout_s: of reading an answer; transport: for tests, proxies, own certificates."""
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=MAX_STALE, keepalive_expiry=KEEP_ALIVE_S)
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=10.0), limits=limits, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(
        self,
        picture: Picture,
        *,
        task: str | Sequence[str] | None = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_threshold: float | None = None,
        labels: str | Sequence[str] | None = None,
        max_segments: int | None = None,
        intensity: str | None = None,
        tile: str | None = None,
        deadline_ms: int | None = None,
        model: str | None = None,
        request_id: str | None = None,
    ) -> Answer:
        """Segment a picture.

        Args:
            picture: path of a file, a file's bytes, an open binary file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or
                (H, W, 4) of uint8. Masks fit the pixels of arrays and PIL images as they are.
            task: panoptic, instance, semantic, or several of them; None: panoptic, or what the model does.
            labels: keep only these; None: all. An empty list is an error, as it is in JSON, rather than "all".
            intensity: which samples are black and white: full, minmax, percentile or "LOW,HIGH"; None: full.
            model: which of the served ones (see `models`); None: the first.
            tile: segment window by window: auto, or "SIZE[,OVERLAP[,SCALE]]" in pixels; None: the picture as a whole.
            request_id: for finding the request in the server's log.

        Raises:
            ServiceError: a subclass that says what the server said: Overloaded, UndecodableImage, InvalidParameter ...
            TypeError, ValueError: what is given is no picture.
            OSError: the file cannot be read.
            httpx.TransportError: the server cannot be reached or does not answer.
        """
        given = {
            "task": _names("task", task),
            "threshold": threshold,
            "mask_threshold": mask_threshold,
            "overlap_threshold": overlap_threshold,
            "labels": _names("labels", labels),
            "max_segments": max_segments,
            "intensity": intensity,
            "tile": tile,
            "deadline_ms": deadline_ms,
            "model": model,
        }
        headers = {"content-type": "application/octet-stream"} | ({} if request_id is None else {"x-request-id": request_id})
        query = {name: value for name, value in given.items() if value is not None}
        answer = _checked(self._ask("POST", "/segment", content=picture_bytes(picture), params=query, headers=headers))
        tasks = {answer["task"]: answer} if "task" in answer else answer["results"]
        return Answer({name: tuple(map(_segment, result["segments"])) for name, result in tasks.items()}, answer)

    def plan(
        self,
        height: int,
        width: int,
        *,
        task: str | Sequence[str] | None = None,
        tile: str | None = None,
        model: str | None = None,
    ) -> Mapping[str, Any]:
        """What a picture of this size would cost: the JSON answer of /segment/plan. Errors: as `segment`."""
        asked = {"height": height, "width": width, "task": _names("task", task), "tile": tile, "model": model}
        answer = self._ask("POST", "/segment/plan", params={name: value for name, value in asked.items() if value is not None})
        plan: Mapping[str, Any] = _checked(answer)
        return plan

    def models(self) -> Sequence[Mapping[str, Any]]:
        """The served models with their labels. Errors: as `segment`."""
        models: Sequence[Mapping[str, Any]] = _checked(self._ask("GET", "/models"))["models"]
        return models

    def ready(self) -> bool:
        """Whether the server can be reached and serves requests now."""
        try:
            return self._ask("GET", "/health/ready").is_success
        except httpx.TransportError:
            return False

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request, again when an idle connection turns out to have been closed meanwhile.

        A server or a proxy may close a connection at the very moment at which a request is sent on it. Nothing of an answer came then,
        and nothing was computed, so that sending it again is safe, as RFC 9112, 9.3.1 has it. A new connection is no such case.
        """
        for _ in range(MAX_STALE):
            trace = _Trace()
            try:
                return self._http.request(method, path, extensions={"trace": trace}, **request)
            except (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError):
                if trace.connected or trace.answered:
                    raise
        return self._http.request(method, path, **request)


class _Trace:
    """What happened to a request: httpcore tells it step by step."""

    def __init__(self) -> None:
        self.connected = False
        """A connection was made for it."""
        self.answered = False
        """The head of an answer came."""

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.connected |= event.startswith("connection.connect")
        self.answered |= event.endswith("receive_response_headers.complete")


def _names(parameter: str, given: str | Sequence[str] | None) -> str | list[str] | None:
    """One name as it is, several of any collection as a list.

    Raises:
        InvalidParameter: an empty collection, which a query cannot say.
    """
    if given is None or isinstance(given, str):
        return given
    names = list(given)
    if not names:
        raise InvalidParameter(f"{parameter}: name at least one, or leave it out (it is {given!r})")
    return names


def _segment(values: Mapping[str, Any]) -> Segment:
    mask = values["segmentation"]
    x, y, width, height = values["bbox"]
    height_px, width_px = mask["size"]
    return Segment(
        id=values["id"],
        category_id=values["category_id"],
        label=values["label"],
        isthing=values["isthing"],
        score=values["score"],
        bbox=(x, y, width, height),
        area=values["area"],
        segmentation=results.RLE((height_px, width_px), mask["counts"]),
    )


def _checked(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json()
    try:
        body = response.json()
    except ValueError:
        body = {}
    retry = response.headers.get("retry-after", "")
    error: ServiceError = error_from_problem(
        response.status_code, body if isinstance(body, dict) else {}, int(retry) if retry.isdecimal() else None
    )
    raise error
