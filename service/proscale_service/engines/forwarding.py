"""The forwarder: sends pictures one by one to servers that form batches themselves, in the order of the backlog.

Only as many are on their way as keep the servers busy: one batch that is computed and one that waits, per server. The others wait
here, where the most urgent of them can still go first, and where a picture that comes later may be refused because of them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from proscale.batch_sizes import BatchSizes
from proscale.runtime import MAX_BATCH_PICTURES
from proscale_service.engines.backlog import Admitted, Backlog
from proscale_service.engines.base import Computed, Picture, failure_for_caller, retry_after
from proscale_service.errors import DeadlineExceeded, Draining, Overloaded, ServiceError
from proscale_service.metrics import Metrics

STAGES = ("preprocess", "infer", "postprocess", "encode")


class Forwarder:
    """Same interface as `Batcher`. All methods belong to the event loop's thread."""

    def __init__(
        self,
        send: Callable[[Picture, float], Awaitable[Computed]],
        metrics: Metrics,
        backlog: Backlog,
        capacity: Callable[[], int] = lambda: 1,
        most_together: int = MAX_BATCH_PICTURES,
    ) -> None:
        """Make a forwarder.

        Args:
            send: has a picture computed by a deadline on the event loop's clock; its `queue_seconds` means nothing yet.
            backlog: says which picture is next.
            capacity: `Engine.capacity`.
            most_together: pictures that a server computes together.
        """
        self._send, self._metrics, self._backlog, self._capacity = send, metrics, backlog, capacity
        self._batch_sizes = BatchSizes(most_together)
        self._waiting: dict[Admitted, asyncio.Future[None]] = {}
        self._sent: dict[Admitted, asyncio.Future[Computed] | None] = {}
        """Pictures whose turn it is, and what computes them."""
        self._closed = False
        self._answers_per_size = Counter[int]()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def depth(self) -> int:
        """Pictures that wait or were sent, and are not answered."""
        return len(self._waiting) + len(self._sent)

    async def submit(self, picture: Picture, promise: Admitted) -> Computed:
        """Send a picture when it is its turn, and wait for its masks; see `Engine.segment`."""
        if self._closed:
            raise Draining("the server is shutting down", retry_after=5)
        began = time.perf_counter()
        turn = self._waiting[promise] = asyncio.get_running_loop().create_future()
        self._idle.clear()
        self.dispatch()
        try:
            async with asyncio.timeout(promise.deadline - time.monotonic()):
                await turn
                computed = await self._computed(picture, promise)
            return self._finish(computed, picture, promise, time.perf_counter() - began)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the picture was done") from error
        except Overloaded as error:
            raise Overloaded(error.detail, retry_after=retry_after(self._backlog.expected_seconds())) from error
        except ServiceError:
            raise
        except Exception as error:
            raise failure_for_caller(error) from error
        finally:
            self._waiting.pop(promise, None)
            self._sent.pop(promise, None)
            self._backlog.stop([promise])
            self.dispatch()
            if not self.depth:
                self._idle.set()

    def dispatch(self) -> None:
        """Send what may be sent now; to be called when the capacity changes."""
        # Without a server as many as with one: whoever is sent then hears at once that there is none.
        servers = max(1, self._capacity())
        while self._waiting:
            chosen = self._backlog.pick(list(self._waiting))
            if len(self._sent) >= servers * 2 * self._batch_sizes.limit(chosen.work.plan.padded):
                return
            turn = self._waiting.pop(chosen)
            if not turn.done():
                self._sent[chosen] = None
                self._backlog.start([chosen])
                turn.set_result(None)

    async def _computed(self, picture: Picture, promise: Admitted) -> Computed:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._send(picture, promise.deadline - time.monotonic() + loop.time()))
        # Marks its failure as seen: asyncio complains about those that nobody awaited.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._sent[promise] = task
        try:
            # Waited for, not awaited: cancelling the task (abort) must not look like cancelling the caller.
            await asyncio.wait({task})
            if task.cancelled():
                raise Draining("the server had to stop before the picture was done", retry_after=5)
            return task.result()
        finally:
            task.cancel()

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
        for task in self._sent.values():
            if task is not None:
                task.cancel()
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(Draining("the server had to stop before the picture was done", retry_after=5))

    def _finish(self, computed: Computed, picture: Picture, promise: Admitted, seconds: float) -> Computed:
        prediction, size = computed.prediction, computed.batch_size
        timings = {stage: prediction.timings.get(stage, 0.0) for stage in STAGES}
        own = timings["postprocess"] + timings["encode"]
        shared = timings["preprocess"] + timings["infer"]
        queue = max(0.0, seconds - shared - own)
        self._batch_sizes.measured(picture.plan.padded, size, shared + size * own)
        self._backlog.measured(picture.work, prediction, size)
        self._backlog.finish([promise])
        timings["preprocess"] += picture.resize_seconds
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
