"""The engine that runs the network in the server's own process, on one thread."""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.allocator import give_back_freed_memory
from proscale.batch_sizes import BatchSizes
from proscale.config import Task
from proscale.geometry import ResizedPicture
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions
from proscale.runtime import RuntimeConfig, warm_up
from proscale.tiles import Tiling
from proscale_service.engines.backlog import Admitted, Backlog
from proscale_service.engines.base import Computed, Engine, Picture, Surroundings
from proscale_service.engines.batching import Batcher
from proscale_service.engines.costs import Work
from proscale_service.engines.processor import Processor

_NICENESS = 10


class BatchPredictor(Protocol):
    """What `proscale.predictor.Predictor` offers an engine."""

    @property
    def info(self) -> ModelInfo:
        """What is being served."""
        ...

    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        """A picture (H, W, 3), uint8 RGB, at the network's size, or at the size of a plan of `plan_joint`."""
        ...

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """Cost of an oriented picture of this size in pixels."""
        ...

    def plan_joint(self, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """As `plan`, of a picture whose windows are apart in the backbone alone. Errors: see `Predictor`."""
        ...

    def segment_resized(
        self,
        pictures: Sequence[ResizedPicture],
        options: Sequence[SegmentationOptions],
        plans: Sequence[Plan],
        resize_seconds: float = 0.0,
    ) -> Sequence[Prediction]:
        """Segment pictures that share `Plan.padded`; one prediction each, in order. Errors: see `Predictor`."""
        ...


def load_predictor(runtime: RuntimeConfig) -> BatchPredictor:
    """The model of `runtime`. Errors: see `proscale.loading`."""
    # Here and not above: torch takes seconds to import, and no other engine needs it.
    from proscale.loading import load_predictor as load

    return load(runtime)


def _stand_back() -> None:
    """Let threads that compute go first: this one, and those that torch starts for it, load a model beside them."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class InProcessEngine(Engine):
    """A predictor, its thread, and the batcher that feeds it."""

    def __init__(self, around: Surroundings, load: Callable[[RuntimeConfig], BatchPredictor] = load_predictor) -> None:
        """Args: load: called on the thread that computes, because torch counts threads per thread."""
        self._around, self._load = around, load
        self._processor = around.processor or Processor(around.settings.decode_threads)
        self._thread = self._processor.executor
        self._predictor: BatchPredictor | None = None
        self._batcher: Batcher | None = None
        self._lost = False
        self.backlog = Backlog(observe=around.metrics.promise, queue=self._processor.queue)

    @property
    def info(self) -> ModelInfo:
        return self._loaded.info

    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        return self._loaded.resize(image, plan)

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return self._loaded.plan(height, width, tasks)

    def plan_joint(self, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return self._loaded.plan_joint(tiling, height, width, tasks)

    @property
    def capacity(self) -> int:
        return int(self._batcher is not None and not self._lost)

    @property
    def depth(self) -> int:
        return self._batcher.depth if self._batcher else 0

    async def open(self) -> None:
        around, runtime = self._around, self._around.settings.runtime
        loop = asyncio.get_running_loop()
        loader = ThreadPoolExecutor(1, "loading", _stand_back) if around.beside else self._thread
        try:
            predictor = self._predictor = await loop.run_in_executor(loader, self._load, runtime)
            predictions = await loop.run_in_executor(loader, warm_up, self._segment_sample, runtime, predictor.info.tasks)
        finally:
            if loader is not self._thread:
                loader.shutdown(wait=False)
        self._batcher = Batcher(
            self._compute,
            predictor.info,
            self._thread,
            around.metrics,
            self.backlog,
            batch_sizes=BatchSizes(runtime.max_batch_pictures),
            max_batch_pixels=runtime.max_batch_pixels,
            max_wait_s=around.settings.max_batch_wait_ms / 1000,
            admitted=around.admitted,
            on_lost=self._on_lost,
            turn=self._processor.turn,
        )
        # Beside others it was warmed up by a thread that stands back: what it took then says nothing of its turn.
        for prediction in () if around.beside else predictions:
            height, width = next(iter(prediction.results.values())).size
            self.backlog.measured(Work(prediction.plan, height * width, tuple(prediction.results)), prediction, batch_size=1)
        around.on_change()

    async def segment(self, picture: Picture, promise: Admitted) -> Computed:
        assert self._batcher is not None
        return await self._batcher.submit(picture, promise)

    async def drain(self, timeout_s: float) -> None:
        if self._batcher:
            await self._batcher.drain(timeout_s)

    def abort(self) -> None:
        if self._batcher:
            self._batcher.abort()

    async def close(self) -> None:
        if self._processor is not self._around.processor:
            self._processor.close()
        # Weights are let go at once, whoever still holds the engine. What they took is for whatever is loaded next, here or elsewhere.
        self._predictor = self._batcher = None
        await asyncio.get_running_loop().run_in_executor(self._around.pool, give_back_freed_memory)

    @property
    def _loaded(self) -> BatchPredictor:
        assert self._predictor is not None, "asked before it was open"
        return self._predictor

    def _on_lost(self, reason: str) -> None:
        self._lost = True
        self._around.on_change()
        self._around.on_lost(reason)

    def _segment_sample(self, image: NDArray[np.uint8], options: SegmentationOptions) -> Prediction:
        plan = self._loaded.plan(image.shape[0], image.shape[1], options.tasks)
        return self._loaded.segment_resized([self.resize(image)], [options], [plan])[0]

    def _compute(self, pictures: Sequence[Picture]) -> Sequence[Prediction]:
        """On the engine's thread."""
        seconds = sum(picture.resize_seconds for picture in pictures)
        parts = [(picture.resized, picture.options, picture.plan) for picture in pictures]
        resized, options, plans = zip(*parts, strict=True)
        return self._loaded.segment_resized(resized, options, plans, seconds)
