"""The engine that sends pictures to Triton servers: each to the least loaded of those that can compute."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput

from proscale import wire
from proscale.config import NetworkConfig, Task
from proscale.geometry import pad_picture, padded_size, resize_picture
from proscale.planning import check_options, plan_picture
from proscale.results import ModelInfo, Plan, SegmentationOptions
from proscale_service.engines.base import RemoteAnswer, RemoteEngine
from proscale_service.engines.triton_errors import ModelChanged, ServerGone
from proscale_service.engines.triton_server import Served, TritonServer, request_tensors
from proscale_service.errors import Unavailable
from proscale_service.settings import Settings

_RETRY_AFTER = 3
"""Seconds; a server that returns is found in less."""


class TritonEngine(RemoteEngine):
    """Several servers that serve the same model behind the RemoteEngine interface."""

    def __init__(self, servers: Sequence[TritonServer]) -> None:
        self._servers = tuple(servers)
        self._turns = dict.fromkeys(self._servers, 0)
        self._pool: Executor | None = None

    @property
    def capacity(self) -> int:
        return sum(server.up for server in self._servers)

    @property
    def info(self) -> ModelInfo:
        return self._served().info

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return plan_picture(self._served().config, height, width, tasks)

    async def open(self, pool: Executor, changed: Callable[[], None]) -> None:
        self._pool = pool
        for server in self._servers:
            server.on_change = changed
        await asyncio.gather(*(server.open() for server in self._servers))

    async def segment_one(self, image: NDArray[np.uint8], options: SegmentationOptions, deadline: float) -> RemoteAnswer:
        gone: list[TritonServer] = []
        changed = False
        while True:
            server, served = self._choose(gone)
            try:
                return await self._ask(server, served, image, options, deadline)
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

    async def aclose(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))

    async def _ask(
        self, server: TritonServer, served: Served, image: NDArray[np.uint8], options: SegmentationOptions, deadline: float
    ) -> RemoteAnswer:
        check_options(options, served.info.categories)
        loop = asyncio.get_running_loop()
        with server.place():
            inputs, seconds = await loop.run_in_executor(self._pool, prepare, image, options, served.config)
            text = await server.infer(inputs, deadline - loop.time())
        del inputs
        size = (image.shape[0], image.shape[1])
        plan = plan_picture(served.config, *size, options.tasks)
        answer = await loop.run_in_executor(self._pool, wire.prediction_from_json, text, size, plan)
        server.check(answer.fingerprint)
        timings = dict(answer.prediction.timings)
        timings["preprocess"] = timings.get("preprocess", 0.0) + seconds
        return RemoteAnswer(replace(answer.prediction, timings=timings), served.info, answer.batch_size)

    def _choose(self, gone: Collection[TritonServer]) -> tuple[TritonServer, Served]:
        """The least loaded server that can compute; of equals the one that was chosen longest ago."""
        able = [server for server in self._servers if server.up and server.served and server not in gone]
        if not able:
            raise _unavailable()
        chosen = min(able, key=lambda server: (server.in_flight, self._turns[server]))
        self._turns[chosen] = max(self._turns.values()) + 1
        assert chosen.served is not None
        return chosen, chosen.served

    def _served(self) -> Served:
        served = next((server.served for server in self._servers if server.up and server.served), None)
        if served is None:
            raise _unavailable()
        return served


def prepare(image: NDArray[np.uint8], options: SegmentationOptions, config: NetworkConfig) -> tuple[list[InferInput], float]:
    """A picture (H, W, 3), uint8 RGB, as a request, and the seconds that it took."""
    started = time.perf_counter()
    picture = resize_picture(image, config.preprocess)
    resized = (picture.pixels.shape[0], picture.pixels.shape[1])
    padded = pad_picture(picture.pixels, padded_size(*resized, config.preprocess))
    inputs = request_tensors(padded, (*resized, *picture.output_size), wire.options_to_json(options))
    return inputs, time.perf_counter() - started


def load(settings: Settings) -> TritonEngine:
    """The engine that `settings` name; it connects in `open`."""
    return TritonEngine([TritonServer(url, settings.triton_model) for url in settings.triton_urls])


def _unavailable() -> Unavailable:
    return Unavailable("no Triton server can compute now; try again in a few seconds", retry_after=_RETRY_AFTER)
