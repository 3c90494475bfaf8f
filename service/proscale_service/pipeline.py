"""One picture from bytes to masks, and the life of what that takes: the engine, its batcher, the decoding threads."""

import asyncio
import difflib
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import numpy as np

from proscale.config import TASKS
from proscale.errors import ProscaleError
from proscale.labels import Category
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions
from proscale_service import logs
from proscale_service.access.quota import UNLIMITED, Quota
from proscale_service.admission import Admission
from proscale_service.batching import Batcher
from proscale_service.engines import in_process
from proscale_service.engines.base import Engine, Planner, RemoteEngine
from proscale_service.errors import DeadlineExceeded, Draining, InvalidParameter, Loading, Unavailable
from proscale_service.forwarding import Forwarder
from proscale_service.images import Header, decode, read_header
from proscale_service.metrics import Metrics
from proscale_service.scheduling import Scheduler
from proscale_service.schemas import SegmentParameters
from proscale_service.settings import Settings

_LOG = logging.getLogger(__name__)
_MAX_RETRY_AFTER = 60
_REMOTE_RETRY_AFTER = 3
"""Seconds in which a worker that returned has been found."""

A = ParamSpec("A")
T = TypeVar("T")
State = Literal["loading", "ready", "draining", "failed"]


def _load_triton(settings: Settings) -> RemoteEngine:
    # Here and not above: gRPC takes a while to import, and no other engine needs it.
    from proscale_service.engines import triton

    return triton.load(settings)


LOADERS: dict[str, Callable[[Settings], Engine | RemoteEngine]] = {"in_process": in_process.load, "triton": _load_triton}
"""From the setting `engine` to what loads it, called on the engine's thread."""


@dataclass(frozen=True)
class Outcome:
    """A finished picture."""

    header: Header
    prediction: Prediction
    info: ModelInfo
    decode_seconds: float
    queue_seconds: float
    batch_size: int


class Pipeline:
    """Everything between HTTP and the engine. Made and used on the event loop's thread.

    States: loading -> ready -> draining; loading or ready -> failed.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        load: Callable[[Settings], Engine | RemoteEngine] | None = None,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            load: makes the engine; unset: what the settings name.
            on_lost: called with the reason when the engine cannot compute any more in this process.
        """
        self.settings, self.metrics, self._on_lost = settings, metrics, on_lost
        self.state: State = "loading"
        self.failure = ""
        self.admission = Admission(settings.max_queue, settings.max_queue_pixels, self.retry_after)
        self._load = load or LOADERS[settings.engine]
        self._engine_thread = ThreadPoolExecutor(1, "engine")
        self._pool = ThreadPoolExecutor(settings.decode_threads, "decode")
        self._engine: Engine | RemoteEngine | None = None
        self._scheduler: Scheduler | None = None
        self._aborted = False
        metrics.watch_queue(lambda: self._scheduler.depth if self._scheduler else 0)

    async def start(self) -> bool:
        """Load the engine, warm it, and become ready. False when that failed; `failure` then says why and what to do."""
        try:
            engine = await asyncio.get_running_loop().run_in_executor(self._engine_thread, self._load, self.settings)
            self._engine = engine
            self._scheduler = await (self._connect(engine) if isinstance(engine, RemoteEngine) else self._warm(engine))
        except ProscaleError as error:
            self.failure = str(error)
        except Exception as error:
            logs.event(_LOG, logging.ERROR, "engine could not be loaded", error=error)
            self.failure = f"the engine could not be loaded: {type(error).__name__}: {error}"
        if self.failure:
            self.state = "failed"
            return False
        if self.state == "loading":
            self.state = "ready"
        if self._up():
            info = engine.info
            logs.event(_LOG, logging.INFO, "ready", model=info.name, encoder=info.encoder, labels=len(info.categories), source=info.source)
        return True

    async def _warm(self, engine: Engine) -> Batcher:
        """Compute what warms the engine, and let it have pictures."""
        # Twice where CUDA graphs are recorded, which happens when a size comes again.
        sizes = self.settings.warmup_sizes * (2 if self.settings.cuda_graphs else 1)
        plans, seconds = await asyncio.get_running_loop().run_in_executor(self._engine_thread, _warm_up, engine, sizes)
        batcher = Batcher(
            engine,
            self._engine_thread,
            self.metrics,
            max_batch_pixels=self.settings.max_batch_pixels,
            max_wait_s=self.settings.max_batch_wait_ms / 1000,
            admitted=lambda: self.admission.pictures,
            on_lost=self._lost,
        )
        if plans:
            batcher.measured(plans[-1].flops, seconds[-1])
        self.metrics.engine_up.set(1)
        return batcher

    def _lost(self, reason: str) -> None:
        logs.event(_LOG, logging.CRITICAL, "the engine is lost", reason=reason)
        self.state, self.failure = "failed", reason
        self.metrics.engine_up.set(0)
        self._on_lost(reason)

    async def _connect(self, engine: RemoteEngine) -> Forwarder:
        """Open the engine. That nobody can compute yet is no failure: it is not ready until somebody can."""
        await engine.open(self._pool, lambda: self.metrics.engine_up.set(min(1, engine.capacity)))
        return Forwarder(engine, self.metrics, self.retry_after)

    def _up(self) -> bool:
        """Whether the engine could compute a picture now."""
        return self._scheduler is not None and not (isinstance(self._engine, RemoteEngine) and not self._engine.capacity)

    def begin_drain(self) -> None:
        """Stop being ready, so that no new traffic is sent here; what comes nevertheless is still served."""
        self.state = "draining"

    def abort(self) -> None:
        """Give up what is still waiting: every unfinished picture is answered 503."""
        self._aborted = True
        if self._scheduler:
            self._scheduler.abort()

    async def stop(self) -> None:
        """Finish what was taken, within `drain_s`, then let go of the engine and the threads."""
        self.begin_drain()
        if self._scheduler:
            await self._scheduler.drain(0 if self._aborted else self.settings.drain_s)
        self.metrics.engine_up.set(0)
        if isinstance(self._engine, RemoteEngine):
            await self._engine.aclose()
        elif self._engine:
            self._engine.close()
        for executor in (self._engine_thread, self._pool):
            executor.shutdown(wait=False, cancel_futures=True)

    def engine(self) -> Planner:
        """What plans, when pictures can be computed.

        Raises:
            Loading, Draining, Unavailable: they cannot, now.
        """
        return self._ready()[0]

    def _ready(self) -> tuple[Planner, Scheduler]:
        if self._aborted:
            raise Draining("the server is shutting down", retry_after=5)
        if self.state == "failed":
            raise Unavailable("the model could not be loaded or its GPU failed; see the server's log", retry_after=_MAX_RETRY_AFTER)
        if self._engine is None or self._scheduler is None:
            raise Loading("the model is being loaded; try again in a few seconds", retry_after=5)
        if not self._up():
            raise Unavailable("nobody can compute now; try again in a few seconds", retry_after=_REMOTE_RETRY_AFTER)
        return self._engine, self._scheduler

    def expected_seconds(self, flops: int) -> float | None:
        """How long a picture of so many FLOPs would take if it came now; None before anything was measured."""
        return self._scheduler.expected_seconds(flops) if self._scheduler else None

    def retry_after(self) -> int:
        """Seconds after which the work of now should be done, 1..60."""
        return max(1, min(_MAX_RETRY_AFTER, math.ceil(self.expected_seconds(0) or 1)))

    async def in_pool(self, function: Callable[A, T], *args: A.args, **kwargs: A.kwargs) -> T:
        """Run `function` on a decoding thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def header(self, data: bytes) -> Header:
        """Format and size of a picture, without decoding it. Errors: see `images.read_header`."""
        return await self.in_pool(read_header, data, self.settings.max_pixels)

    async def segment(self, data: bytes, parameters: SegmentParameters, arrived: float, quota: Quota = UNLIMITED) -> Outcome:
        """Segment one picture.

        Args:
            data: the encoded picture.
            arrived: when the request came, in seconds of the event loop's clock; the deadline counts from there.
            quota: the caller's.

        Raises:
            ServiceError: whatever is wrong; see errors.py.
        """
        engine, scheduler = self._ready()
        options = options_of(parameters, engine.info)
        deadline = arrived + (parameters.deadline_ms or self.settings.deadline_ms) / 1000
        with quota.picture(), self.admission.permit() as permit:
            started = time.perf_counter()
            try:
                async with asyncio.timeout_at(deadline) as timer:
                    header = await self.header(data)
                    permit.hold_pixels(header.height * header.width)
                    quota.take_pixels(header.height * header.width)
                    image, header = await self.in_pool(decode, data, self.settings.max_pixels)
            except TimeoutError as error:
                if not timer.expired():
                    raise
                raise DeadlineExceeded("the deadline passed before the picture was decoded") from error
            decode_seconds = time.perf_counter() - started
            self.metrics.stage("decode", decode_seconds)
            plan = engine.plan(header.height, header.width, options.tasks)
            done = await scheduler.submit(image, options, plan, deadline)
        return Outcome(header, done.prediction, done.info, decode_seconds, done.queue_seconds, done.batch_size)


def options_of(parameters: SegmentParameters, info: ModelInfo) -> SegmentationOptions:
    """What to ask the engine for.

    Raises:
        InvalidParameter: a label that the model does not have.
    """
    return SegmentationOptions(
        tasks=parameters.tasks,
        threshold=parameters.threshold,
        mask_threshold=parameters.mask_threshold,
        overlap_threshold=parameters.overlap_threshold,
        labels=None if parameters.labels is None else resolve_labels(parameters.labels, info.categories),
        max_segments=parameters.max_segments,
    )


def resolve_labels(asked: Sequence[str], categories: Sequence[Category]) -> tuple[str, ...]:
    """The model's own spelling of every asked label, each once.

    Args:
        asked: labels, or several of them comma separated; a value that is a label as a whole is not split. Case does not matter.

    Raises:
        InvalidParameter: names every unknown label and the nearest known ones.
    """
    exact = {category.name: category.name for category in categories}
    known = {category.name.casefold(): category.name for category in categories} | exact
    found, unknown = [], []
    for value in asked:
        parts = [value] if value in known or value.casefold() in known else [part.strip() for part in value.split(",")]
        for part in parts:
            label = known.get(part) or known.get(part.casefold())
            if label is None:
                unknown.append(part)
            else:
                found.append(label)
    if unknown:
        raise InvalidParameter("; ".join(_unknown_label(label, known) for label in dict.fromkeys(unknown)))
    return tuple(dict.fromkeys(found))


def _unknown_label(label: str, known: dict[str, str]) -> str:
    near = list(dict.fromkeys(known[name] for name in difflib.get_close_matches(label.casefold(), known, n=3)))
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "GET /models lists the known ones"
    return f"labels: the model has no label {label[:80]!r}; {hint}"


def _warm_up(engine: Engine, sizes: Sequence[tuple[int, int]]) -> tuple[list[Plan], list[float]]:
    """Compute a blank picture of every size (height, width): memory is taken and kernels are chosen before the first user waits.

    Returns:
        plans and seconds, one per size.
    """
    plans, seconds = [], []
    for height, width in sizes:
        plans.append(engine.plan(height, width, TASKS))
        prediction = engine.segment([np.zeros((height, width, 3), np.uint8)], [SegmentationOptions(tasks=TASKS)])[0]
        seconds.append(sum(prediction.timings.values()))
    return plans, seconds
