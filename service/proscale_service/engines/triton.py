"""The engine that sends pictures to Triton servers: each to the least loaded of those that can compute."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput

from proscale import wire
from proscale.config import Task
from proscale.geometry import ResizedPicture, pad_picture, padded_size, resize_picture, resized_size
from proscale.planning import check_labels, plan_picture
from proscale.results import ModelInfo, Plan, SegmentationOptions
from proscale.tracing import current_span
from proscale_service import logs
from proscale_service.engines.backlog import Admitted, Backlog
from proscale_service.engines.base import Computed, Engine, Picture, Surroundings
from proscale_service.engines.forwarding import Forwarder
from proscale_service.engines.triton_connection import TritonConnection, request_tensors
from proscale_service.engines.triton_errors import ModelChanged, ServerGone
from proscale_service.engines.triton_server import Served, TritonServer
from proscale_service.errors import Unavailable
from proscale_service.metrics import HEAL_OUTCOMES

_RETRY_AFTER = 3
"""Seconds; a server that returns is found in less."""


class TritonEngine(Engine):
    """Several servers that serve the same model."""

    def __init__(self, around: Surroundings, servers: Sequence[TritonServer] | None = None) -> None:
        """Args: servers: unset: those that the settings name."""
        settings = around.settings
        if servers is None:
            check_s = settings.triton_check_s
            servers = [TritonServer(TritonConnection(url, settings.triton_model, check_s), check_s) for url in settings.triton_urls]
        self._around, self._servers = around, tuple(servers)
        self._last_chosen = dict.fromkeys(self._servers, 0)
        self.backlog = Backlog(lambda: self.capacity, settings.decode_threads, around.metrics.promise)
        self._forwarder = Forwarder(self.send, around.metrics, self.backlog, lambda: self.capacity)

    @property
    def info(self) -> ModelInfo:
        return self._served().info

    @property
    def capacity(self) -> int:
        return sum(server.up for server in self._servers)

    @property
    def depth(self) -> int:
        return self._forwarder.depth

    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        return resize_picture(image, self._served().config.preprocess, None if plan is None else plan.resized)

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return plan_picture(self._served().config, height, width, tasks)

    async def open(self) -> None:
        for outcome in HEAL_OUTCOMES:  # there before the first one, or no rate would see that
            self._around.metrics.heals.labels(self._around.settings.triton_model, outcome)
        for server in self._servers:
            server.on_change = self._on_change
            server.on_heal = lambda outcome: self._around.metrics.healed(self._around.settings.triton_model, outcome)
        await asyncio.gather(*(server.open() for server in self._servers))
        self._around.on_change()
        self._count_servers()

    async def segment(self, picture: Picture, promise: Admitted) -> Computed:
        return await self._forwarder.submit(picture, promise)

    async def drain(self, timeout_s: float) -> None:
        await self._forwarder.drain(timeout_s)

    def abort(self) -> None:
        self._forwarder.abort()

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))

    async def send(self, picture: Picture, deadline: float) -> Computed:
        """Have a picture computed by one server, or, when that is lost with it, by another one. Errors: `triton_errors` has them."""
        gone: list[TritonServer] = []
        changed = False
        while True:
            server, served = self._choose(gone)
            try:
                picture = await self._for_model(picture, served)
                return await self._ask(server, served, picture, deadline)
            except ServerGone as error:
                # Once more elsewhere, for a picture that was lost with its server. Not a third time: it may be what kills them.
                gone.append(server)
                if len(gone) > 1:
                    raise _unavailable() from error
            except ModelChanged:
                await server.describe_anew(served)
                if changed or server.served is served:
                    raise
                changed = True

    def _on_change(self) -> None:
        self._around.on_change()
        self._count_servers()
        self._forwarder.dispatch()

    def _count_servers(self) -> None:
        self._around.metrics.servers_up.labels(self._around.settings.triton_model).set(self.capacity)

    async def _for_model(self, picture: Picture, served: Served) -> Picture:
        """The picture as this model wants it; it was resized for the model that was served when it was read."""
        height, width = picture.resized.output_size
        if picture.resized.pixels.shape[:2] == resized_size(height, width, served.config.preprocess):
            return picture
        check_labels(picture.options, served.info.categories)

        def anew() -> ResizedPicture:
            return resize_picture(picture.decode_again(), served.config.preprocess)

        resized = await asyncio.get_running_loop().run_in_executor(self._around.pool, anew)
        return replace(picture, resized=resized, plan=plan_picture(served.config, height, width, picture.options.tasks))

    async def _ask(self, server: TritonServer, served: Served, picture: Picture, deadline: float) -> Computed:
        loop = asyncio.get_running_loop()
        with server.track_in_flight(), _call_span(server.connection.url):
            text = await server.infer(tensors_of(picture.resized, picture.options, served), deadline - loop.time(), logs.REQUEST_ID.get())
        size = picture.resized.output_size
        answer = await loop.run_in_executor(self._around.pool, wire.prediction_from_json, text, size, picture.plan)
        server.check(answer.fingerprint)
        return Computed(answer.prediction, served.info, answer.batch_size, queue_seconds=0.0)

    def _choose(self, gone: Collection[TritonServer]) -> tuple[TritonServer, Served]:
        """The least loaded server that can compute; of equals the one that was chosen longest ago."""
        able = [server for server in self._servers if server.up and server.served and server not in gone]
        if not able:
            raise _unavailable()
        chosen = min(able, key=lambda server: (server.in_flight, self._last_chosen[server]))
        self._last_chosen[chosen] = max(self._last_chosen.values()) + 1
        assert chosen.served is not None
        return chosen, chosen.served

    def _served(self) -> Served:
        served = next((server.served for server in self._servers if server.up and server.served), None)
        if served is None:
            raise _unavailable()
        return served


@contextmanager
def _call_span(url: str) -> Iterator[None]:
    """The span of a call, which the worker's spans are parts of; nothing where no spans are wanted."""
    if (span := current_span()) is None:
        yield
        return
    call, error = span.begin("triton", "client"), "failed"
    try:
        with call.current():
            yield
        error = ""
    finally:
        call.end(error=error, server=url)


def tensors_of(picture: ResizedPicture, options: SegmentationOptions, served: Served) -> list[InferInput]:
    """A picture as a request to a server."""
    resized = (picture.pixels.shape[0], picture.pixels.shape[1])
    padded = pad_picture(picture.pixels, padded_size(*resized, served.config.preprocess))
    return request_tensors(padded, (*resized, *picture.output_size), wire.options_to_json(options))


def _unavailable() -> Unavailable:
    return Unavailable("no Triton server can compute now; try again in a few seconds", retry_after=_RETRY_AFTER)
