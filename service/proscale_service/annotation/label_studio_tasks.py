"""Label Studio's tasks -> predictions: fetches the pictures, asks the service for all of them at once, keeps what is done."""

import asyncio
import base64
import binascii
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from proscale_service.annotation.label_config import Target
from proscale_service.annotation.shapes import bitmask_url, brush_rle, outlines
from proscale_service.client import Answer, AsyncClient, Segment
from proscale_service.errors import ServiceError

_LOG = logging.getLogger(__name__)
MAX_PICTURE_BYTES = 256 * 2**20
MAX_KEPT = 2000
"""Predictions of so many tasks are kept, for whoever asks again after a timeout."""


class TaskError(Exception):
    """One task has no prediction; the text says why."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of predictions."""

    task: str | None = None
    """panoptic, instance or semantic; None: the model's own."""
    threshold: float | None = None
    simplify: float = 1.0
    """Tolerance of polygons in pixels."""
    concurrency: int = 4
    """Pictures in flight at once, of all requests together."""
    within_s: float = 80.0
    """Label Studio gives up after 100 seconds and forgets everything. What is not done in time goes on, and is there when it asks again."""


@dataclass(frozen=True)
class Results:
    """Of a request: one entry per task, in order."""

    predictions: list[list[dict[str, Any]]]
    """A list with one prediction, or an empty one, which Label Studio leaves without a prediction, to be asked for again."""
    errors: list[dict[str, Any]] = field(default_factory=list)


class Source:
    """Where pictures come from: Label Studio itself, other servers, data URLs."""

    def __init__(self, url: str | None, key: str | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Args: url, key: Label Studio's, for uploads and local files."""
        self._url, self._key = url, key
        self._http = httpx.AsyncClient(follow_redirects=True, timeout=60.0, transport=transport)
        self._token: str | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def fetch(self, place: Any) -> bytes:
        """The picture's file. Raises TaskError."""
        if not isinstance(place, str) or not place:
            raise TaskError(f"the task has no picture: {place!r}")
        if place.startswith("data:"):
            try:
                return base64.b64decode(place.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise TaskError("the task's data URL is not base64") from error
        if "://" not in place and self._url is None:
            raise TaskError(f"{place} is a path inside Label Studio; start with --label-studio-url and --label-studio-key")
        url = place if "://" in place else urljoin(f"{self._url}/", place)
        if urlsplit(url).scheme not in ("http", "https"):
            raise TaskError(f"{url[:200]} cannot be fetched; pictures in clouds need Label Studio's presigned URLs, which are https")
        try:
            return await self._get(url)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TaskError(f"{url[:200]} cannot be fetched: {error}") from error

    async def _get(self, url: str) -> bytes:
        ours = self._url is not None and _origin(url) == _origin(self._url)
        headers = await self._authorization() if ours else {}
        # Whatever redirects it elsewhere, httpx takes the header off on another origin.
        async with self._http.stream("GET", url, headers=headers) as response:
            if not response.is_success:
                hint = "; is --label-studio-key right?" if ours and response.status_code in (401, 403) else ""
                raise TaskError(f"{url[:200]} cannot be fetched: HTTP status {response.status_code}{hint}")
            data = bytearray()
            async for part in response.aiter_bytes():
                data += part
                if len(data) > MAX_PICTURE_BYTES:
                    raise TaskError(f"{url[:200]} has more than {MAX_PICTURE_BYTES} bytes")
            return bytes(data)

    async def _authorization(self) -> Mapping[str, str]:
        if self._key is None:
            return {}
        if self._key.count(".") != 2:
            return {"authorization": f"Token {self._key}"}
        # A personal access token is exchanged for one that is good for minutes.
        answer = await self._http.post(urljoin(f"{self._url}/", "/api/token/refresh"), json={"refresh": self._key})
        if not answer.is_success:
            raise TaskError(f"Label Studio refuses the key: HTTP status {answer.status_code} at /api/token/refresh")
        return {"authorization": f"Bearer {answer.json()['access']}"}


class Predictions:
    """Makes predictions, and keeps them."""

    def __init__(self, service: AsyncClient, source: Source, wanted: Wanted) -> None:
        self._service, self._source, self._wanted = service, source, wanted
        self._free = asyncio.Semaphore(wanted.concurrency)
        self._kept: OrderedDict[str, asyncio.Task[dict[str, Any]]] = OrderedDict()

    async def of(self, tasks: Sequence[Mapping[str, Any]], target: Target, version: str) -> Results:
        """Predictions for tasks. Args: version: of the model, part of what is kept apart."""
        work = [self._begun(task, target, version) for task in tasks]
        if work:
            await asyncio.wait(set(work), timeout=self._wanted.within_s)
        results = Results([])
        for task, each in zip(tasks, work, strict=True):
            error = None if each.done() else "not done in time; it goes on, ask again"
            if each.done() and not each.cancelled() and (failure := each.exception()) is not None:
                error = str(failure) or type(failure).__name__
            if error is None:
                results.predictions.append([each.result()])
                continue
            _LOG.warning("task %s has no prediction: %s", task.get("id"), error)
            results.predictions.append([])
            results.errors.append({"task": task.get("id"), "error": error})
        return results

    async def close(self) -> None:
        """Give up what is not done."""
        for task in self._kept.values():
            task.cancel()
        await asyncio.gather(*self._kept.values(), return_exceptions=True)

    def _begun(self, task: Mapping[str, Any], target: Target, version: str) -> asyncio.Task[dict[str, Any]]:
        data = task.get("data")
        place = data.get(target.data_key) if isinstance(data, Mapping) else None
        key = hashlib.sha256(repr((place, sorted(target.labels.items()), target, version)).encode()).hexdigest()
        known = self._kept.pop(key, None)
        if known is None or (known.done() and (known.cancelled() or known.exception() is not None)):
            known = asyncio.create_task(self._predict(place, target, version))
            # Nobody may be left to ask for it.
            known.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        self._kept[key] = known
        while len(self._kept) > MAX_KEPT and next(iter(self._kept.values())).done():
            self._kept.popitem(last=False)
        return known

    async def _predict(self, place: Any, target: Target, version: str) -> dict[str, Any]:
        async with self._free:
            picture = await self._source.fetch(place)
            try:
                answer = await self._service.segment(picture, task=self._wanted.task, threshold=self._wanted.threshold, priority="bulk")
            except ServiceError as error:
                raise TaskError(error.detail) from error
            except httpx.TransportError as error:
                raise TaskError(f"the segmentation service does not answer: {error}") from error
        regions = await asyncio.to_thread(regions_of, answer, target, self._wanted.simplify)
        scores = [region["score"] for region in regions]
        return {"result": regions, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": version}


def regions_of(answer: Answer, target: Target, simplify: float = 0.0) -> list[dict[str, Any]]:
    """An answer's segments as Label Studio's regions; those whose label the configuration does not have are left out."""
    return [
        region
        for segment in answer.segments
        if segment.label in target.labels and segment.area
        for region in _regions(segment, answer.size, target, simplify)
    ]


def _regions(segment: Segment, size: tuple[int, int], target: Target, simplify: float) -> list[dict[str, Any]]:
    height, width = size
    type_ = f"{target.kind}labels"
    values: list[dict[str, Any]]
    if target.kind == "brush":
        values = [{"format": "rle", "rle": brush_rle(segment.segmentation)}]
    elif target.kind == "bitmask":
        values = [{"imageDataURL": bitmask_url(segment.segmentation)}]
    else:
        values = [
            {"points": (ring * (100 / width, 100 / height)).tolist(), "closed": True} for ring in outlines(segment.segmentation, simplify)
        ]
    return [
        {
            "id": f"{segment.id}-{number}",
            "from_name": target.from_name,
            "to_name": target.to_name,
            "type": type_,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": segment.score,
            "value": value | {type_: [target.labels[segment.label]]},
        }
        for number, value in enumerate(values, 1)
    ]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
