"""`proscale bulk --service`: pictures of a bulk job through running services, by the client, with rows as from a model in the actor."""

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Event, Lock
from typing import Any

import httpx
import pyarrow
from PIL import Image

from proscale import results
from proscale.bulk.formats import make_files
from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.pictures import Picture, pictures_of, read_bytes
from proscale.bulk.rows import SCHEMA, STOP, WITH_FILES, error_text, segmented
from proscale.errors import DataError, ProscaleError
from proscale_service.client import NO_RETRIES, Answer, Client, Retries, SegmentOptions
from proscale_service.errors import Forbidden, Overloaded, ServiceError, Unauthorized, Unavailable, UnknownModel

REFUSED = (Overloaded, Unavailable, httpx.ConnectError, httpx.ConnectTimeout)
"""Nothing was computed: the picture may be sent again, here or to another gateway."""
HOPELESS = (Unauthorized, Forbidden, UnknownModel)
"""No picture would fare better."""
BATCHES_AHEAD = 4
"""An actor is given so many times its concurrency at once, so that the slowest picture of a batch leaves few connections idle."""
_TIMEOUT_S = 120.0
_PROBE = 64


@dataclass(frozen=True)
class Gateways:
    """Which services, and how they are asked."""

    urls: tuple[str, ...]
    api_key: str | None = None
    concurrency: int = 4
    """Pictures in flight per actor."""
    patience_s: float = 300.0
    """After so long without an answer from any gateway the job ends."""


class Stopped(Exception):  # noqa: N818  (no fault of a picture)
    """The job cannot go on."""


class Gateway:
    """One service, as one actor sees it."""

    def __init__(self, client: Client, url: str) -> None:
        self.client, self.url = client, url
        self.in_flight = 0
        self.rests_until = 0.0
        """By `time.monotonic`: nothing is sent before."""
        self._refusals = 0

    def refused(self, asked_s: float | None, sent: float) -> None:
        """Leave it alone for as long as it says, else twice as long every time. Args: sent: when; of many refusals at once one counts."""
        if sent < self.rests_until:
            return
        self._refusals += 1
        self.rests_until = time.monotonic() + Retries().wait(self._refusals, asked_s)

    def answered(self) -> None:
        """It works."""
        self._refusals = 0


class GatewaySegmenter:
    """What an actor does: batches of `Picture` in, tables of rows out, as `bulk.segmenter.PictureSegmenter`."""

    def __init__(self, gateways: Gateways, options: SegmentOptions, tasks: Sequence[str], output_format: str = "parquet") -> None:
        """Args: options: of every picture."""
        self._gateways = [
            Gateway(Client(url, api_key=gateways.api_key, timeout_s=_TIMEOUT_S, retries=NO_RETRIES), url) for url in gateways.urls
        ]
        self._options, self._tasks, self._format = options, tasks, output_format
        self._patience_s = gateways.patience_s
        self._pool = ThreadPoolExecutor(gateways.concurrency, "gateways")
        self._lock, self._stopped, self._last_answer = Lock(), Event(), time.monotonic()
        self._reason = ""

    def __call__(self, batch: Mapping[str, Any]) -> pyarrow.Table:
        """Rows of a batch, in its order; when the job cannot go on, those that are done, and a row `STOP` that says why."""
        self._stopped.clear()
        self._last_answer = time.monotonic()  # what lay between two batches is no fault of the gateways
        futures = [self._pool.submit(self._row, picture) for picture in pictures_of(batch)]
        rows = []
        for future in futures:
            try:
                rows.append(future.result())
            except Stopped:
                continue
        if self._stopped.is_set():
            rows.append({"path": STOP, "error": self._reason})
        return pyarrow.Table.from_pylist(rows, SCHEMA if self._format == "parquet" else WITH_FILES)

    def close(self) -> None:
        """End threads and connections."""
        self._pool.shutdown(cancel_futures=True)
        for gateway in self._gateways:
            gateway.client.close()

    def _row(self, picture: Picture) -> dict[str, Any]:
        row: dict[str, Any] = {"path": picture.path}
        try:
            answer = self._answer(read_bytes(picture))
        except HOPELESS as error:
            raise self._stop(f"the service refuses: {error}") from error
        except (ProscaleError, ServiceError, OSError) as error:
            row["error"] = error_text(error)
        except httpx.TransportError as error:
            # It may have been computed, and may be what brought the gateway down: sending it again is not safe.
            row["error"] = f"no answer from the service: {error or type(error).__name__}"
        else:
            found = segmentations(answer, self._tasks)
            row.update(row_of(answer, found))
            row["files"] = make_files(self._format, row, found)
        return row

    def _answer(self, data: bytes) -> Answer:
        """One picture's answer, from whichever gateway takes it. Raises Stopped: none does, and none answered others meanwhile."""
        begun, refusal = time.monotonic(), "none was asked"
        while True:
            if self._stopped.is_set():
                raise Stopped
            with self._lock:
                gateway = min(self._gateways, key=lambda each: (each.rests_until > time.monotonic(), each.in_flight, each.rests_until))
                rest = gateway.rests_until - time.monotonic()
                if rest <= 0:
                    gateway.in_flight += 1
            if rest > 0:
                self._wait(min(each.rests_until for each in self._gateways) - time.monotonic(), begun, refusal)
                continue
            sent = time.monotonic()
            try:
                with self._counted(gateway):
                    return gateway.client.segment(data, **self._options)
            except REFUSED as error:
                refusal = f"{gateway.url}: {error or type(error).__name__}"
                with self._lock:
                    gateway.refused(getattr(error, "retry_after", None), sent)

    def _stop(self, reason: str) -> Stopped:
        """End the batch for all pictures; the first reason counts."""
        with self._lock:
            if not self._stopped.is_set():
                self._reason = reason
                self._stopped.set()
        return Stopped(reason)

    @contextmanager
    def _counted(self, gateway: Gateway) -> Iterator[None]:
        try:
            yield
            with self._lock:
                gateway.answered()
                self._last_answer = time.monotonic()
        finally:
            with self._lock:
                gateway.in_flight -= 1

    def _wait(self, seconds: float, begun: float, refusal: str) -> None:
        """Wait until a gateway may be asked. Raises Stopped, or a DataError for a picture that alone is refused for so long."""
        end = time.monotonic() + max(0.0, seconds)
        if end - max(begun, self._last_answer) > self._patience_s:
            raise self._stop(f"no service takes pictures for {self._patience_s:g} s: {refusal}")
        if end - begun > 2 * self._patience_s:
            raise DataError(f"the service refuses this picture while it takes others: {refusal}")
        self._stopped.wait(max(0.0, seconds))


def segmentations(answer: Answer, tasks: Sequence[str]) -> list[results.Segmentation]:
    """An answer's results by task."""
    return [results.Segmentation(name, answer.size, answer.results[name]) for name in tasks]  # type: ignore[arg-type]  # names of tasks


def row_of(answer: Answer, found: Sequence[results.Segmentation]) -> dict[str, Any]:
    """A row without its path."""
    compute, image = answer.raw["compute"], answer.raw["image"]
    cost = compute["tiles"]["windows"] if "tiles" in compute else 1, compute["flops"], compute["baseline_flops"]
    return segmented(answer.size, image["orientation_applied"], found, cost, answer.warnings)


def gateway_work(
    urls: str,
    options: BulkOptions,
    *,
    api_key: str | None = None,
    concurrency: int = 4,
    model: str | None = None,
    patience_s: float = 300.0,
) -> Work:
    """Work by services; each is asked once before the job begins, so that mistakes end it then.

    Args:
        urls: comma separated.
        model: which of the served ones; None: the first.

    Raises:
        DataError: a service does not answer, refuses the options, or serves another model than the others.
    """
    names = tuple(dict.fromkeys(url.strip().rstrip("/") for url in urls.split(",") if url.strip()))
    if not names:
        raise DataError("--service names no URL, such as http://127.0.0.1:8000")
    asked = options.segmentation
    given: SegmentOptions = {
        "task": list(asked.tasks),
        "threshold": asked.threshold,
        "labels": None if asked.labels is None else list(asked.labels),
        "max_segments": asked.max_segments,
        "intensity": None if options.intensity == "full" else options.intensity,
        "tile": None if options.tile == "off" else options.tile,
        "model": model,
        "priority": "bulk",
    }
    served = {url: _probe(url, api_key, given) for url in names}
    if others := [url for url in names if served[url] != served[names[0]]]:
        raise DataError(f"{names[0]} and {others[0]} serve different models; name one that both have with --model")
    decides: dict[str, Any] = {"model": served[names[0]], "tile": options.tile, "intensity": options.intensity}
    decides |= {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(asked).items()}
    gateways = Gateways(names, api_key, concurrency, patience_s)
    return Work(GatewaySegmenter, (gateways, given, asked.tasks, options.output_format), decides, BATCHES_AHEAD * concurrency)


def _probe(url: str, api_key: str | None, given: SegmentOptions) -> str:
    """A digest of what a service says of the model that answers; with these options it answers."""
    blank = io.BytesIO()
    Image.new("RGB", (_PROBE, _PROBE), (128, 128, 128)).save(blank, "PNG")
    try:
        with Client(url, api_key=api_key) as client:
            client.segment(blank.getvalue(), **given)
            known = next(each for each in client.models() if given.get("model") in (None, each["name"]))
            about = {key: known[key] for key in ("name", "encoder", "layers", "backbone", "categories", "origin")}
    except ServiceError as error:
        raise DataError(f"{url}: {error}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(f"no answer from {url}: {error or type(error).__name__}. Is a service running there?") from error
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise DataError(f"{url} answers, but not as a service of this kind") from error
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
