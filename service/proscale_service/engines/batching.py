"""The batcher: pictures that share a padded size are computed together, in the order of the backlog, while no deadline is missed by it.

No result depends on its batch mates, because padded sizes are equal. While the engine computes one batch, the next fills up by itself. A
picture waits for mates only at an idle engine, only where batches gain, and only while pictures that were let in are still being decoded.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from proscale.batch_sizes import BatchSizes
from proscale.batches import Outcome, compute_batch
from proscale.errors import DeviceError
from proscale.results import ModelInfo, Prediction
from proscale_service.engines.backlog import PRIORITIES, Admitted, Backlog
from proscale_service.engines.base import Computed, Picture, failure_for_caller
from proscale_service.engines.processor import Turn, free_turn
from proscale_service.errors import DeadlineExceeded, Draining
from proscale_service.metrics import Metrics


@dataclass(eq=False)
class Job:
    """A picture in the queue."""

    picture: Picture
    promise: Admitted
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
        backlog: Backlog,
        *,
        batch_sizes: BatchSizes,
        max_batch_pixels: int,
        max_wait_s: float = 0.0,
        admitted: Callable[[], int] = lambda: 0,
        on_lost: Callable[[str], None] = lambda reason: None,
        turn: Turn = free_turn,
    ) -> None:
        """Make a batcher and start it.

        Args:
            compute: the masks of pictures that share a padded size, one prediction each, in order; called on the executor.
            info: of the model that computes.
            executor: has one thread, the engine's.
            backlog: says which picture is next.
            batch_sizes: how many together.
            admitted: pictures in the service, those here included.
            on_lost: called with the reason when the engine cannot compute any more in this process.
            turn: where other models compute on the same executor.
        """
        self._compute_pictures, self._info, self._executor, self._metrics = compute, info, executor, metrics
        self._backlog, self._batch_sizes = backlog, batch_sizes
        self._max_batch_pixels, self._max_wait_s, self._admitted, self._on_lost = max_batch_pixels, max_wait_s, admitted, on_lost
        self._turn = turn
        self._waiting: dict[Admitted, Job] = {}
        self._arrival = asyncio.Event()
        self._running: list[Job] = []
        self._closed = False
        self._worker = asyncio.get_running_loop().create_task(self._work(), name="batcher")

    @property
    def depth(self) -> int:
        """Pictures that wait."""
        return len(self._waiting)

    async def submit(self, picture: Picture, promise: Admitted) -> Computed:
        """Queue a picture and wait for its masks; see `Engine.segment`."""
        if self._closed:
            raise Draining("the server is shutting down", retry_after=5)
        job = self._waiting[promise] = Job(picture, promise, asyncio.get_running_loop().create_future())
        self._arrival.set()
        try:
            async with asyncio.timeout(promise.deadline - time.monotonic()):
                return await job.future
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the picture was done") from error
        finally:
            # Nothing is left behind by callers who gave up: neither the picture's memory nor work for the engine.
            if not job.future.done():
                job.future.cancel()
            elif not job.future.cancelled():
                job.future.exception()  # marks it as seen: asyncio complains about failures that nobody awaited
            self._waiting.pop(promise, None)

    async def drain(self, timeout_s: float) -> None:
        """Accept no more pictures, finish those that were accepted, and stop. What is not done within `timeout_s` fails with Draining."""
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
        for job in [*self._waiting.values(), *self._running]:
            job.fail(Draining(detail, retry_after=5))
        self._waiting.clear()

    async def _work(self) -> None:
        while True:
            if not self.depth:
                if self._closed:
                    return
                self._arrival.clear()
                await self._arrival.wait()
                continue
            await self._wait_for_mates()
            async with self._turn(lambda: list(self._waiting)):
                self._running = self._take()
                try:
                    if self._running:
                        await self._compute(self._running)
                except Exception as error:
                    # A fault of this file must not end the loop that everybody waits for.
                    for job in self._running:
                        job.fail(failure_for_caller(error))
                    self._backlog.stop(job.promise for job in self._running)
                self._running = []

    async def _wait_for_mates(self) -> None:
        while self._waiting and not self._closed:
            oldest = min(self._waiting.values(), key=lambda job: job.enqueued)
            mates = [job for job in self._waiting.values() if job.picture.plan.padded == oldest.picture.plan.padded]
            left = oldest.enqueued + self._max_wait_s - time.monotonic()
            pixels = sum(job.picture.pixels for job in mates)
            full = pixels >= self._max_batch_pixels or len(mates) >= self._batch_sizes.limit(oldest.picture.plan.padded)
            if left <= 0 or full or self._admitted() <= self.depth:
                return
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[Job]:
        """The next batch: the picture that is next, and mates of its padded size; at least one picture however large it is."""
        for promise, job in list(self._waiting.items()):
            if promise.deadline <= time.monotonic():
                job.fail(DeadlineExceeded("the deadline passed while the picture waited"))
            if job.future.done():
                del self._waiting[promise]
        if not self._waiting:
            return []
        first = self._waiting[self._backlog.pick(list(self._waiting))]
        padded = first.picture.plan.padded
        batch, pixels, limit = [first], first.picture.pixels, self._batch_sizes.limit(padded)
        mates = [job for job in self._waiting.values() if job is not first and job.picture.plan.padded == padded]
        mates.sort(key=lambda job: (PRIORITIES.index(job.promise.priority), job.promise.deadline))
        for job in mates:
            fits = len(batch) < limit and pixels + job.picture.pixels <= self._max_batch_pixels
            if fits and self._backlog.may_join([each.promise for each in (*batch, job)]):
                batch.append(job)
                pixels += job.picture.pixels
        for job in batch:
            del self._waiting[job.promise]
        return batch

    async def _compute(self, batch: list[Job]) -> None:
        """Have one batch computed and answer its jobs."""
        started = time.monotonic()
        promises = [job.promise for job in batch]
        self._backlog.start(promises)
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, batch)
        except DeviceError as error:
            self._backlog.stop(promises)
            self._fail_all("the GPU failed before the picture was done; the server has to start anew")
            self._on_lost(str(error))
            return
        self._learn(batch, outcomes, time.monotonic() - started)
        for job, outcome in zip(batch, outcomes, strict=True):
            if outcome is not None:
                self._answer(job, outcome, started - job.enqueued)

    def _learn(self, batch: list[Job], outcomes: list[Outcome | None], seconds: float) -> None:
        resize_seconds = sum(job.picture.resize_seconds for job in batch)
        done = [(job, each.prediction, each.batch_size) for job, each in zip(batch, outcomes, strict=True) if each and each.prediction]
        for job, prediction, size in done:
            # What was run singly had its own preprocessing.
            resized = resize_seconds if size == len(batch) else job.picture.resize_seconds
            self._backlog.measured(job.picture.work, prediction, size, resized)
        if all(size == len(batch) for _, _, size in done) and len(done) == len(batch):
            self._batch_sizes.measured(batch[0].picture.plan.padded, len(batch), seconds)
        finished = [job.promise for job, _, _ in done]
        self._backlog.finish(finished)
        self._backlog.stop(job.promise for job in batch if job.promise not in finished)

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
