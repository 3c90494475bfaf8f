"""The client for asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
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


class AsyncClient:
    """`Client` for asyncio, method by method; files are read, and pictures and answers converted, on threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Args: as `Client`."""
        self.retries = Retries() if retries is None else retries
        self._http = httpx.AsyncClient(**connection_options(url, api_key, timeout_s), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def segment(self, picture: Picture, **options: Unpack[SegmentOptions]) -> Answer:
        """Segment a picture. Args, errors: as `Client.segment`."""
        return await self._segment(picture, options, self.retries)

    async def files(self, picture: Picture, formats: str | Sequence[str], **options: Unpack[FileOptions]) -> Files:
        """Segment a picture, answered in other formats. Args, errors: as `Client.files`."""
        asked = await asyncio.to_thread(ask_files, picture, formats, options)
        return await asyncio.to_thread(read_files, await self._ask(asked, self.retries))

    async def segment_many(
        self,
        pictures: Iterable[Picture],
        *,
        concurrency: int = 4,
        ordered: bool = True,
        progress: Progress = False,
        total: int | None = None,
        **options: Unpack[SegmentOptions],
    ) -> AsyncGenerator[Outcome, None]:
        """Segment many pictures, several at a time. Args, errors: as `Client.segment_many`."""
        check_concurrency(concurrency)
        retries, free = patient(self.retries), asyncio.Semaphore(concurrency)

        async def one(index: int, picture: Picture) -> Outcome:
            try:
                async with free:
                    return Outcome(index, picture, await self._segment(picture, options, retries))
            except Exception as error:
                return Outcome(index, picture, error=error)

        pending: deque[asyncio.Task[Outcome]] = deque()
        numbered = enumerate(pictures)
        try:
            with ProgressReport(progress, pictures, total) as report:
                while True:
                    window = concurrency * AHEAD if ordered else concurrency
                    while len(pending) < window and (each := next(numbered, None)) is not None:
                        pending.append(asyncio.create_task(one(*each)))
                    if not pending:
                        return
                    if ordered:
                        outcome = await pending[0]
                        pending.popleft()
                    else:
                        done = (await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED))[0].pop()
                        pending.remove(done)
                        outcome = done.result()
                    report.one_more()
                    yield outcome
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def plan(self, height: int, width: int, **options: Unpack[PlanOptions]) -> Mapping[str, Any]:
        """What a picture of this size would cost: the JSON answer of /segment/plan. Errors: as `segment`."""
        plan: Mapping[str, Any] = checked(await self._ask(ask_plan(height, width, options), self.retries)).json()
        return plan

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """The served models with their labels. Errors: as `segment`."""
        models: Sequence[Mapping[str, Any]] = checked(await self._ask(Asked("GET", "/models"), self.retries)).json()["models"]
        return models

    async def ready(self) -> bool:
        """Whether the server can be reached and serves requests now."""
        try:
            return (await self._ask(Asked("GET", "/health/ready"), NO_RETRIES)).is_success
        except httpx.TransportError:
            return False

    async def _segment(self, picture: Picture, options: SegmentOptions, retries: Retries) -> Answer:
        asked = await asyncio.to_thread(ask_segments, picture, options)
        return await asyncio.to_thread(read_segments, await self._ask(asked, retries))

    async def _ask(self, asked: Asked, retries: Retries) -> httpx.Response:
        steps, outcome = conversation(retries, asked.within_s), None
        while True:
            try:
                seconds = steps.send(outcome)
            except StopIteration as end:
                answer: httpx.Response = end.value
                return answer
            if seconds is None:
                outcome = await self._send(asked)
            else:
                outcome = None
                await asyncio.sleep(seconds)

    async def _send(self, asked: Asked) -> httpx.Response | Failed:
        trace = Trace()

        async def traced(event: str, info: Mapping[str, Any]) -> None:
            trace(event, info)

        try:
            return await self._http.request(asked.method, asked.path, extensions={"trace": traced}, **asked.arguments)
        except httpx.TransportError as error:
            return Failed(error, trace.stale(error))
