"""A real, tiny remote engine: ThresholdEngine, as if it were elsewhere and batched there."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import ModelInfo, Plan, SegmentationOptions
from proscale_service.engines.base import RemoteAnswer, RemoteEngine
from proscale_service.errors import Unavailable

from .engines import ThresholdEngine


class RemoteThreshold(RemoteEngine):
    """`gate` holds it up, `up` takes it away; says that every batch had `batch_size` pictures."""

    def __init__(self, batch_size: int = 1, up: bool = True) -> None:
        self._engine, self._batch_size, self.up = ThresholdEngine(), batch_size, up
        self.gate = asyncio.Event()
        self.gate.set()
        self.computed = 0
        self.cancelled = 0
        self.closed = False
        self.changed: Callable[[], None] = lambda: None

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return self._engine.plan(height, width, tasks)

    @property
    def capacity(self) -> int:
        return int(self.up)

    async def open(self, pool: Executor, changed: Callable[[], None]) -> None:
        self.changed = changed
        changed()

    async def segment_one(self, image: NDArray[np.uint8], options: SegmentationOptions, deadline: float) -> RemoteAnswer:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if not self.up:
            raise Unavailable("away", retry_after=3)
        self.computed += 1
        return RemoteAnswer(self._engine.segment([image], [options])[0], self.info, self._batch_size)

    async def aclose(self) -> None:
        self.closed = True
