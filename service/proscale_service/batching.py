"""The batcher: one queue per padded size, a pixel budget per batch, deadlines, nothing computed for the dead.

Pictures share a batch only when their padded sizes are equal, so that no result depends on its batch mates. While the engine
computes one batch, the next fills up by itself; the wait for mates matters only at an idle engine, and only while pictures
that were let in are still being decoded.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from proscale.errors import DeviceError
from proscale.results import Plan, Prediction, SegmentationOptions
from proscale_service import logs
from proscale_service.engines.base import Engine
from proscale_service.errors import DeadlineExceeded, Draining
from proscale_service.metrics import Metrics
from proscale_service.scheduling import Done, SpeedEstimate, describe_failure

_LOG = logging.getLogger(__name__)
Size = tuple[int, int]


@dataclass(eq=False)
class Job:
    """A picture in the queue."""

    image: NDArray[np.uint8]
    options: SegmentationOptions
    plan: Plan
    deadline: float
    """In seconds of the event loop's clock."""
    future: asyncio.Future[Done]
    enqueued: float = field(default_factory=time.monotonic)

    @property
    def pixels(self) -> int:
        """What it takes of a batch's budget: the network's cost goes with the padded size, post-processing with the picture's own."""
        height, width = self.image.shape[:2]
        return max(self.plan.padded[0] * self.plan.padded[1], int(height * width))

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless nobody listens."""
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Queues pictures and feeds them to an engine on its one thread. All methods belong to the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        metrics: Metrics,
        *,
        max_batch_pixels: int,
        max_wait_s: float = 0.0,
        admitted: Callable[[], int] = lambda: 0,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Make a batcher and start it.

        Args:
            executor: has one thread, the engine's.
            admitted: pictures in the service, those here included.
            on_lost: called with the reason when the engine cannot compute any more in this process.
        """
        self._engine, self._executor, self._metrics = engine, executor, metrics
        self._max_batch_pixels, self._max_wait_s, self._admitted, self._on_lost = max_batch_pixels, max_wait_s, admitted, on_lost
        self._queues: dict[Size, deque[Job]] = {}
        self._arrival = asyncio.Event()
        self._running: list[Job] = []
        self._closed = False
        self._speed = SpeedEstimate()
        self._worker = asyncio.get_running_loop().create_task(self._work(), name="batcher")

    @property
    def depth(self) -> int:
        """Pictures that wait."""
        return sum(map(len, self._queues.values()))

    def expected_seconds(self, flops: int) -> float | None:
        """How long until a picture of so many FLOPs would be done if it came now; None before anything was measured."""
        ahead = sum(job.plan.flops for queue in self._queues.values() for job in queue) + sum(job.plan.flops for job in self._running)
        return self._speed.seconds(ahead + flops)

    def measured(self, flops: int, seconds: float) -> None:
        """Take a measurement into the estimate of speed."""
        self._speed.measured(flops, seconds)

    async def submit(self, image: NDArray[np.uint8], options: SegmentationOptions, plan: Plan, deadline: float) -> Done:
        """Queue a picture and wait for its masks. Cancelling the caller takes it out of the queue.

        Args:
            image: (H, W, 3) uint8 RGB.
            plan: the engine's for this size and these tasks.
            deadline: in seconds of the event loop's clock.

        Raises:
            DeadlineExceeded: not done by then.
            Draining: the server goes down.
            EngineFailure, Unprocessable: of this picture alone.
        """
        if self._closed:
            raise Draining("the server is shutting down", retry_after=5)
        job = Job(image, options, plan, deadline, asyncio.get_running_loop().create_future())
        queue = self._queues.setdefault(plan.padded, deque())
        queue.append(job)
        self._arrival.set()
        try:
            async with asyncio.timeout_at(deadline):
                return await job.future
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the picture was done") from error
        finally:
            # Nothing is left behind by callers who gave up: neither the picture's memory nor work for the engine.
            if not job.future.done():
                job.future.cancel()
            elif not job.future.cancelled():
                job.future.exception()  # marks it as seen: asyncio complains about failures that nobody awaited
            self._discard(job)

    async def drain(self, timeout_s: float) -> None:
        """Take no more, finish what was taken, and stop. What is not done within `timeout_s` fails with Draining."""
        self._closed = True
        self._arrival.set()
        done, _ = await asyncio.wait({self._worker}, timeout=timeout_s)
        if not done:
            self.abort()
            # The engine's thread cannot be interrupted; its batch ends by itself and finds nobody listening.
            await asyncio.wait({self._worker})

    def abort(self) -> None:
        """Take no more, and fail whatever is not done with Draining."""
        self._fail_all("the server had to stop before the picture was done")

    def _fail_all(self, detail: str) -> None:
        self._closed = True
        self._arrival.set()
        for job in [*(job for queue in self._queues.values() for job in queue), *self._running]:
            job.fail(Draining(detail, retry_after=5))
        self._queues.clear()

    async def _work(self) -> None:
        while True:
            if not self.depth:
                if self._closed:
                    return
                self._arrival.clear()
                await self._arrival.wait()
                continue
            await self._wait_for_mates()
            self._running = self._take()
            try:
                if self._running:
                    await self._compute(self._running)
            except Exception as error:
                # A fault of this file must not end the loop that everybody waits for.
                for job in self._running:
                    job.fail(describe_failure(error))
            self._running = []

    def _oldest(self) -> deque[Job] | None:
        """The queue whose head has waited longest: no size starves, however busy another one is."""
        return min((queue for queue in self._queues.values() if queue), key=lambda queue: queue[0].enqueued, default=None)

    async def _wait_for_mates(self) -> None:
        while (queue := self._oldest()) and not self._closed:
            left = queue[0].enqueued + self._max_wait_s - time.monotonic()
            full = sum(job.pixels for job in queue) >= self._max_batch_pixels
            if left <= 0 or full or self._admitted() <= self.depth:
                return
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[Job]:
        """The next batch: live jobs of the oldest queue up to the pixel budget, at least one however large it is."""
        queue, batch, pixels = self._oldest(), list[Job](), 0
        now = asyncio.get_running_loop().time()
        while queue and (not batch or pixels + queue[0].pixels <= self._max_batch_pixels):
            job = queue.popleft()
            if job.deadline <= now:
                job.fail(DeadlineExceeded("the deadline passed while the picture waited"))
            if not job.future.done():
                batch.append(job)
                pixels += job.pixels
        self._queues = {size: queue for size, queue in self._queues.items() if queue}
        return batch

    def _discard(self, job: Job) -> None:
        queue = self._queues.get(job.plan.padded)
        if queue and job in queue:
            queue.remove(job)

    async def _compute(self, batch: list[Job]) -> None:
        """Run one batch and answer its jobs. A batch that fails is run again one by one, so that one picture's fault stays its own."""
        started = time.monotonic()
        predictions: Sequence[Prediction] = ()
        try:
            predictions = await asyncio.get_running_loop().run_in_executor(self._executor, self._segment, batch)
        except DeviceError as error:
            self._fail_all("the GPU failed before the picture was done; the server has to start anew")
            self._on_lost(str(error))
            return
        except Exception as error:
            if len(batch) == 1:
                batch[0].fail(describe_failure(error))
                return
            logs.event(_LOG, logging.WARNING, "batch failed, its pictures are run singly", error=error, size=len(batch))
        if not predictions:  # here and not above: the error holds the memory of the batch
            for job in batch:
                if not job.future.done():
                    await self._compute([job])
            return
        self.measured(sum(job.plan.flops for job in batch), time.monotonic() - started)
        self._observe(batch, predictions, started)
        for job, prediction in zip(batch, predictions, strict=True):
            if not job.future.done():
                job.future.set_result(Done(prediction, started - job.enqueued, len(batch), self._engine.info))

    def _segment(self, batch: list[Job]) -> Sequence[Prediction]:
        """On the engine's thread."""
        predictions = self._engine.segment([job.image for job in batch], [job.options for job in batch])
        if len(predictions) != len(batch):
            raise RuntimeError(f"the engine gave {len(predictions)} predictions for {len(batch)} pictures")
        return predictions

    def _observe(self, batch: list[Job], predictions: Sequence[Prediction], started: float) -> None:
        self._metrics.batch_size.observe(len(batch))
        for stage in ("preprocess", "infer"):
            self._metrics.stage(stage, predictions[0].timings.get(stage, 0.0))
        for job, prediction in zip(batch, predictions, strict=True):
            self._metrics.stage("queue", started - job.enqueued)
            self._metrics.stage("postprocess", prediction.timings.get("postprocess", 0.0))
            self._metrics.computed(prediction.plan, self._engine.info.encoder)
