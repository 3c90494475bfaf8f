"""The forwarder: hands pictures one by one to an engine that batches elsewhere, and keeps the books that the batcher keeps.

How many pictures are on their way is bounded by admission; whether one waits or is computed, only the other side knows.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from proscale.results import Plan, SegmentationOptions
from proscale_service.engines.base import RemoteAnswer, RemoteEngine
from proscale_service.errors import DeadlineExceeded, Draining, Overloaded
from proscale_service.metrics import Metrics
from proscale_service.scheduling import Done, SpeedEstimate, describe_failure

STAGES = ("preprocess", "infer", "postprocess", "encode")


class Forwarder:
    """Same interface as `Batcher`. All methods belong to the event loop's thread."""

    def __init__(self, engine: RemoteEngine, metrics: Metrics, retry_after: Callable[[], int] = lambda: 1) -> None:
        """Args: retry_after: seconds to tell those whom the other side refuses."""
        self._engine, self._metrics, self._retry_after = engine, metrics, retry_after
        self._speed = SpeedEstimate()
        self._flops_ahead = 0
        self._sent: set[asyncio.Task[RemoteAnswer]] = set()
        self._closed = False
        self._told = Counter[int]()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def depth(self) -> int:
        """Pictures that were sent and are not answered."""
        return len(self._sent)

    def expected_seconds(self, flops: int) -> float | None:
        """How long until a picture of so many FLOPs would be done if it came now; None before anything was measured."""
        return self._speed.seconds(self._flops_ahead // max(1, self._engine.capacity) + flops)

    async def submit(self, image: NDArray[np.uint8], options: SegmentationOptions, plan: Plan, deadline: float) -> Done:
        """Send a picture and wait for its masks. Cancelling the caller takes it back.

        Args:
            image: (H, W, 3) uint8 RGB.
            plan: the engine's for this size and these tasks.
            deadline: in seconds of the event loop's clock.

        Raises:
            DeadlineExceeded: not done by then.
            Draining: the server goes down.
            Overloaded, Unavailable: refused there, or nobody is there.
            EngineFailure, Unprocessable: of this picture alone.
        """
        if self._closed:
            raise Draining("the server is shutting down", retry_after=5)
        started = time.perf_counter()
        task = asyncio.create_task(self._engine.segment_one(image, options, deadline))
        # Marks its failure as seen: asyncio complains about those that nobody awaited.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._sent.add(task)
        self._idle.clear()
        self._flops_ahead += plan.flops
        try:
            async with asyncio.timeout_at(deadline):
                # Waited for, not awaited: whoever cancels the task (abort) must not look as if he cancelled the caller.
                await asyncio.wait({task})
            if task.cancelled():
                raise Draining("the server had to stop before the picture was done", retry_after=5)
            answer = task.result()
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the picture was done") from error
        except Draining:
            raise
        except Overloaded as error:
            raise Overloaded(error.detail, retry_after=self._retry_after()) from error
        except Exception as error:
            raise describe_failure(error) from error
        finally:
            task.cancel()
            self._flops_ahead -= plan.flops
            self._sent.discard(task)
            if not self._sent:
                self._idle.set()
        return self._finish(answer, time.perf_counter() - started)

    async def drain(self, timeout_s: float) -> None:
        """Take no more and wait for what was sent. What is not answered within `timeout_s` fails with Draining."""
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            self.abort()
            await self._idle.wait()

    def abort(self) -> None:
        """Take no more, and fail whatever is not done with Draining."""
        self._closed = True
        for task in self._sent:
            task.cancel()

    def _finish(self, answer: RemoteAnswer, seconds: float) -> Done:
        prediction, size = answer.prediction, answer.batch_size
        timings = {stage: prediction.timings.get(stage, 0.0) for stage in STAGES}
        own = timings["postprocess"] + timings["encode"]
        shared = timings["preprocess"] + timings["infer"]
        self._speed.measured(prediction.plan.flops, shared / size + own)
        queue = max(0.0, seconds - shared - own)
        # A batch is told once by each of its pictures: the n-th one that says n completes a batch of n.
        self._told[size] += 1
        if self._told[size] >= size:
            self._told[size] -= size
            self._metrics.batch_size.observe(size)
            self._metrics.stage("preprocess", timings["preprocess"])
            self._metrics.stage("infer", timings["infer"])
        self._metrics.stage("queue", queue)
        self._metrics.stage("postprocess", timings["postprocess"])
        self._metrics.computed(prediction.plan, answer.info.encoder)
        return Done(prediction, queue, size, answer.info)
