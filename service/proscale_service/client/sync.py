"""The client for threads."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, Self, Unpack

import httpx

from proscale_service.client.answers import Answer, Files
from proscale_service.client.asking import (
    Asked,
    FileOptions,
    PlanOptions,
    SegmentOptions,
    ask_files,
    ask_plan,
    ask_segments,
    checked,
    connection_options,
    read_files,
    read_segments,
)
from proscale_service.client.many import AHEAD, Outcome, Progress, ProgressReport, check_concurrency, patient
from proscale_service.client.pictures import Picture
from proscale_service.client.retries import NO_RETRIES, Failed, Retries, Trace, conversation

Sleep = Callable[[float], object]


class Client:
    """Talks to one server. Thread-safe; use it as a context manager or call `close`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Args: url: such as http://127.0.0.1:8000; timeout_s: of reading an answer; transport: for tests, proxies, own certificates."""
        self.retries = Retries() if retries is None else retries
        self._http = httpx.Client(**connection_options(url, api_key, timeout_s), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(self, picture: Picture, **options: Unpack[SegmentOptions]) -> Answer:
        """Segment a picture.

        Args:
            picture: path of a file, a URL, a file's bytes, an open binary file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or
                (H, W, 4) of uint8. Masks fit the pixels of arrays and PIL images as they are. A URL is fetched here; `FetchedByServer`
                has the server do it.
            options: see `SegmentOptions`.

        Raises:
            ServiceError: a subclass that says what the server said: Overloaded, UndecodableImage, InvalidParameter ...
            TypeError, ValueError: what is given is no picture.
            OSError: the file cannot be read.
            httpx.TransportError: the server cannot be reached or does not answer.
        """
        return self._segment(picture, options, self.retries)

    def files(self, picture: Picture, formats: str | Sequence[str], **options: Unpack[FileOptions]) -> Files:
        """Segment a picture, answered in other formats, such as geojson, csv, overlay_png. Args, errors: as `segment`."""
        return read_files(self._ask(ask_files(picture, formats, options), self.retries))

    def segment_many(
        self,
        pictures: Iterable[Picture],
        *,
        concurrency: int = 4,
        ordered: bool = True,
        progress: Progress = False,
        total: int | None = None,
        **options: Unpack[SegmentOptions],
    ) -> Iterator[Outcome]:
        """Segment many pictures, several at a time. A picture that fails has its error in its outcome; the others go on.

        Pictures are taken from the iterable as they are needed, and answers are handed out as they come, so that any number of them needs
        little memory. Leaving the loop sends nothing further.

        Args:
            concurrency: pictures in flight at once.
            ordered: whether outcomes come in the order of the pictures, or as they are done.
            progress: True: a bar on standard error; a function: called with how many are done, and the total or None.
            total: how many pictures there are, for the bar, where the iterable does not know.
            options: of every picture.

        Raises:
            ValueError: a concurrency below 1.
        """
        check_concurrency(concurrency)
        return self._many(pictures, concurrency, ordered, ProgressReport(progress, pictures, total), options)

    def _many(
        self, pictures: Iterable[Picture], concurrency: int, ordered: bool, report: ProgressReport, options: SegmentOptions
    ) -> Iterator[Outcome]:
        retries, stopped = patient(self.retries), Event()

        def one(index: int, picture: Picture) -> Outcome:
            try:
                return Outcome(index, picture, self._segment(picture, options, retries, _until(stopped)))
            except Exception as error:
                return Outcome(index, picture, error=error)

        pool = ThreadPoolExecutor(concurrency, "segment_many")
        pending: deque[Future[Outcome]] = deque()
        numbered = enumerate(pictures)
        try:
            with report:
                while True:
                    window = concurrency * AHEAD if ordered else concurrency
                    while len(pending) < window and (each := next(numbered, None)) is not None:
                        pending.append(pool.submit(one, *each))
                    if not pending:
                        return
                    if ordered:
                        done = pending.popleft()
                    else:
                        done = wait(pending, return_when=FIRST_COMPLETED).done.pop()
                        pending.remove(done)
                    outcome = done.result()
                    report.one_more()
                    yield outcome
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def plan(self, height: int, width: int, **options: Unpack[PlanOptions]) -> Mapping[str, Any]:
        """What a picture of this size would cost: the JSON answer of /segment/plan. Errors: as `segment`."""
        plan: Mapping[str, Any] = checked(self._ask(ask_plan(height, width, options), self.retries)).json()
        return plan

    def models(self) -> Sequence[Mapping[str, Any]]:
        """The served models with their labels. Errors: as `segment`."""
        models: Sequence[Mapping[str, Any]] = checked(self._ask(Asked("GET", "/models"), self.retries)).json()["models"]
        return models

    def ready(self) -> bool:
        """Whether the server can be reached and serves requests now."""
        try:
            return self._ask(Asked("GET", "/health/ready"), NO_RETRIES).is_success
        except httpx.TransportError:
            return False

    def _segment(self, picture: Picture, options: SegmentOptions, retries: Retries, sleep: Sleep = time.sleep) -> Answer:
        return read_segments(self._ask(ask_segments(picture, options), retries, sleep))

    def _ask(self, asked: Asked, retries: Retries, sleep: Sleep = time.sleep) -> httpx.Response:
        steps, outcome = conversation(retries, asked.within_s), None
        while True:
            try:
                seconds = steps.send(outcome)
            except StopIteration as end:
                answer: httpx.Response = end.value
                return answer
            if seconds is None:
                outcome = self._send(asked)
            else:
                outcome = None
                sleep(seconds)

    def _send(self, asked: Asked) -> httpx.Response | Failed:
        trace = Trace()
        try:
            return self._http.request(asked.method, asked.path, extensions={"trace": trace}, **asked.arguments)
        except httpx.TransportError as error:
            return Failed(error, trace.stale(error))


def _until(stopped: Event) -> Sleep:
    """A sleep that ends, with an error, when nobody waits for the outcome any more."""

    def sleep(seconds: float) -> None:
        if stopped.wait(seconds):
            raise RuntimeError("nobody waits for this picture any more")

    return sleep
