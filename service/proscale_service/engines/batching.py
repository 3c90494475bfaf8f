"""The batcher: one queue per padded size, a pixel budget per batch, deadlines, nothing computed for the dead.

Pictures share a batch only when their padded sizes are equal, so that no result depends on its batch mates. While the engine
computes one batch, the next fills up by itself. A picture waits for mates only at an idle engine, and only while pictures
that were let in are still being decoded.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from proscale.batches import Outcome, compute_batch
from proscale.errors import DeviceError
from proscale.results import ModelInfo, Prediction
from proscale_service.engines.base import Computed, Picture, SpeedEstimate, failure_for_caller
from proscale_service.errors import DeadlineExceeded, Draining
from proscale_service.metrics import Metrics

Size = tuple[int, int]


@dataclass(eq=False)
class Job:
    """A picture in the queue."""

    picture: Picture
    deadline: float
    """In seconds of the event loop's clock."""
    future: asyncio.Future[Computed]
    enqueued: float = field(default_factory=time.monotonic)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless nobody listens."""
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Queues pictures and has them computed on one thread. All methods belong to the event loop's thread."""

    def __init__(
        self,
        compute: Callable[[Sequence[Picture]], Sequence[Prediction]],
        info: ModelInfo,
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
            compute: the masks of pictures that share a padded size, one prediction each, in order; called on the executor.
            info: of the model that computes.
            executor: has one thread, the engine's.
            admitted: pictures in the service, those here included.
            on_lost: called with the reason when the engine cannot compute any more in this process.
        """
        self._compute_pictures, self._info, self._executor, self._metrics = compute, info, executor, metrics
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
        waiting = [job for queue in self._queues.values() for job in queue]
        return self._speed.seconds(sum(job.picture.plan.flops for job in [*waiting, *self._running]) + flops)

    def measured(self, flops: int, seconds: float) -> None:
        """Take a measurement into the estimate of speed."""
        self._speed.measured(flops, seconds)

    async def submit(self, picture: Picture, deadline: float) -> Computed:
        """Queue a picture and wait for its masks; see `Engine.segment`."""
        if self._closed:
            raise Draining("the server is shutting down", retry_after=5)
        job = Job(picture, deadline, asyncio.get_running_loop().create_future())
        self._queues.setdefault(picture.plan.padded, deque()).append(job)
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
                    job.fail(failure_for_caller(error))
            self._running = []

    def _oldest(self) -> deque[Job] | None:
        """The queue whose head has waited longest: no size starves, however busy another one is."""
        return min((queue for queue in self._queues.values() if queue), key=lambda queue: queue[0].enqueued, default=None)

    async def _wait_for_mates(self) -> None:
        while (queue := self._oldest()) and not self._closed:
            left = queue[0].enqueued + self._max_wait_s - time.monotonic()
            full = sum(job.picture.pixels for job in queue) >= self._max_batch_pixels
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
        while queue and (not batch or pixels + queue[0].picture.pixels <= self._max_batch_pixels):
            job = queue.popleft()
            if job.deadline <= now:
                job.fail(DeadlineExceeded("the deadline passed while the picture waited"))
            if not job.future.done():
                batch.append(job)
                pixels += job.picture.pixels
        self._queues = {size: queue for size, queue in self._queues.items() if queue}
        return batch

    def _discard(self, job: Job) -> None:
        queue = self._queues.get(job.picture.plan.padded)
        if queue and job in queue:
            queue.remove(job)

    async def _compute(self, batch: list[Job]) -> None:
        """Have one batch computed and answer its jobs."""
        started = time.monotonic()
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, batch)
        except DeviceError as error:
            self._fail_all("the GPU failed before the picture was done; the server has to start anew")
            self._on_lost(str(error))
            return
        flops = sum(job.picture.plan.flops for job, outcome in zip(batch, outcomes, strict=True) if outcome and outcome.prediction)
        if flops:
            self.measured(flops, time.monotonic() - started)
        for job, outcome in zip(batch, outcomes, strict=True):
            if outcome is not None:
                self._answer(job, outcome, started - job.enqueued)

    def _run(self, batch: list[Job]) -> list[Outcome | None]:
        """On the engine's thread."""
        return compute_batch(lambda jobs: self._compute_pictures([job.picture for job in jobs]), batch, gone=lambda job: job.future.done())

    def _answer(self, job: Job, outcome: Outcome, queue_seconds: float) -> None:
        if outcome.prediction is None:
            assert outcome.error is not None
            job.fail(failure_for_caller(outcome.error))
            return
        timings, plan = outcome.prediction.timings, outcome.prediction.plan
        if outcome.opens_batch:
            self._metrics.batch_size.observe(outcome.batch_size)
            for stage in ("preprocess", "infer"):
                self._metrics.stage(stage, timings.get(stage, 0.0))
        self._metrics.stage("queue", queue_seconds)
        self._metrics.stage("postprocess", timings.get("postprocess", 0.0))
        self._metrics.computed(plan, self._info.encoder)
        if not job.future.done():
            job.future.set_result(Computed(outcome.prediction, self._info, outcome.batch_size, queue_seconds))
