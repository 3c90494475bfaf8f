"""The forwarder: hands pictures one by one to servers that form batches themselves, and keeps the books that the batcher keeps.

Admission bounds how many pictures are on their way. Whether one waits or is computed, only the servers know.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from proscale_service.engines.base import Computed, Picture, SpeedEstimate, failure_for_caller, retry_after
from proscale_service.errors import DeadlineExceeded, Draining, Overloaded, ServiceError
from proscale_service.metrics import Metrics

STAGES = ("preprocess", "infer", "postprocess", "encode")


class Forwarder:
    """Same interface as `Batcher`. All methods belong to the event loop's thread."""

    def __init__(
        self, send: Callable[[Picture, float], Awaitable[Computed]], metrics: Metrics, capacity: Callable[[], int] = lambda: 1
    ) -> None:
        """Args: send: has a picture computed by a deadline; its `queue_seconds` means nothing yet; capacity: `Engine.capacity`."""
        self._send, self._metrics, self._capacity = send, metrics, capacity
        self._speed = SpeedEstimate()
        self._flops_ahead = 0
        self._sent: set[asyncio.Future[Computed]] = set()
        self._closed = False
        self._answers_per_size = Counter[int]()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def depth(self) -> int:
        """Pictures that were sent and are not answered."""
        return len(self._sent)

    def expected_seconds(self, flops: int) -> float | None:
        """How long until a picture of so many FLOPs would be done if it came now; None before anything was measured."""
        return self._speed.seconds(self._flops_ahead // max(1, self._capacity()) + flops)

    async def submit(self, picture: Picture, deadline: float) -> Computed:
        """Send a picture and wait for its masks; see `Engine.segment`."""
        if self._closed:
            raise Draining("the server is shutting down", retry_after=5)
        started = time.perf_counter()
        task = asyncio.ensure_future(self._send(picture, deadline))
        # Marks its failure as seen: asyncio complains about those that nobody awaited.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._sent.add(task)
        self._idle.clear()
        self._flops_ahead += picture.plan.flops
        try:
            async with asyncio.timeout_at(deadline):
                # Waited for, not awaited: cancelling the task (abort) must not look like cancelling the caller.
                await asyncio.wait({task})
            if task.cancelled():
                raise Draining("the server had to stop before the picture was done", retry_after=5)
            answer = task.result()
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the picture was done") from error
        except Overloaded as error:
            raise Overloaded(error.detail, retry_after=retry_after(self.expected_seconds(0))) from error
        except ServiceError:
            raise
        except Exception as error:
            raise failure_for_caller(error) from error
        finally:
            task.cancel()
            self._flops_ahead -= picture.plan.flops
            self._sent.discard(task)
            if not self._sent:
                self._idle.set()
        return self._finish(answer, picture.resize_seconds, time.perf_counter() - started)

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

    def _finish(self, computed: Computed, resize_seconds: float, seconds: float) -> Computed:
        prediction, size = computed.prediction, computed.batch_size
        timings = {stage: prediction.timings.get(stage, 0.0) for stage in STAGES}
        own = timings["postprocess"] + timings["encode"]
        shared = timings["preprocess"] + timings["infer"]
        self._speed.measured(prediction.plan.flops, shared / size + own)
        queue = max(0.0, seconds - shared - own)
        timings["preprocess"] += resize_seconds
        # Each of a batch's N answers reports size N, so the batch is counted after N answers.
        self._answers_per_size[size] += 1
        if self._answers_per_size[size] >= size:
            self._answers_per_size[size] -= size
            self._metrics.batch_size.observe(size)
            self._metrics.stage("preprocess", timings["preprocess"])
            self._metrics.stage("infer", timings["infer"])
        self._metrics.stage("queue", queue)
        self._metrics.stage("postprocess", timings["postprocess"])
        self._metrics.computed(prediction.plan, computed.info.encoder)
        return replace(computed, queue_seconds=queue, prediction=replace(prediction, timings=timings))
