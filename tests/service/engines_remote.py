"""A real, tiny remote engine: ThresholdPredictor, as if it were elsewhere and batched there."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.geometry import ResizedPicture
from proscale.results import ModelInfo, Plan
from proscale_service.engines.backlog import Admitted, Backlog
from proscale_service.engines.base import Computed, Engine, Picture, Surroundings
from proscale_service.engines.forwarding import Forwarder
from proscale_service.errors import Unavailable
from proscale_service.metrics import Metrics

from .predictors import ThresholdPredictor


class RemoteThreshold(Engine):
    """`gate` holds it up, `up` takes it away; says that every batch had `batch_size` pictures."""

    def __init__(self, batch_size: int = 1, up: bool = True) -> None:
        self._predictor, self._batch_size, self.up = ThresholdPredictor(), batch_size, up
        self.gate = asyncio.Event()
        self.gate.set()
        self.computed = 0
        self.backlog = Backlog()
        self.cancelled = 0
        self.closed = False

    def __call__(self, around: Surroundings) -> Engine:
        """Itself: how the service makes it."""
        self._around = around
        self.forwarder = Forwarder(self.send, around.metrics, self.backlog)
        return self

    def forward(self, metrics: Metrics | None = None) -> Forwarder:
        """A forwarder to it, without a service."""
        return Forwarder(self.send, metrics or Metrics(), Backlog(), lambda: 4)

    @property
    def info(self) -> ModelInfo:
        return self._predictor.info

    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        return self._predictor.resize(image, plan)

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return self._predictor.plan(height, width, tasks)

    @property
    def capacity(self) -> int:
        return int(self.up)

    @property
    def depth(self) -> int:
        return self.forwarder.depth

    def changed(self) -> None:
        self._around.on_change()

    async def open(self) -> None:
        self.changed()

    async def segment(self, picture: Picture, promise: Admitted) -> Computed:
        return await self.forwarder.submit(picture, promise)

    async def send(self, picture: Picture, deadline: float) -> Computed:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if not self.up:
            raise Unavailable("away", retry_after=3)
        self.computed += 1
        (prediction,) = self._predictor.segment_resized([picture.resized], [picture.options], [picture.plan])
        return Computed(prediction, self.info, self._batch_size, 0.0)

    async def drain(self, timeout_s: float) -> None:
        await self.forwarder.drain(timeout_s)

    def abort(self) -> None:
        self.forwarder.abort()

    async def close(self) -> None:
        self.closed = True
