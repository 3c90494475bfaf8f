"""One picture on its way from bytes to masks."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from proscale.pictures import Header
from proscale.results import SegmentationOptions
from proscale.tracing import current_span
from proscale_service.access.quota import UNLIMITED, Quota
from proscale_service.admission import Admission, DecodeSlots, Permit
from proscale_service.context import RequestContext
from proscale_service.engines.backlog import DEFAULT_PRIORITY, Admitted
from proscale_service.engines.base import Computed, Engine, MakeEngine, Picture
from proscale_service.engines.costs import Work
from proscale_service.errors import DeadlineExceeded
from proscale_service.images import OpenedPicture, read_picture
from proscale_service.lifecycle import Lifecycle
from proscale_service.metrics import Metrics
from proscale_service.options import options_of, plan_of
from proscale_service.requests import SegmentParameters
from proscale_service.settings import Settings
from proscale_service.spans import span_picture
from proscale_service.windows import LargePicture, segment_large, work_of

A = ParamSpec("A")
T = TypeVar("T")


@dataclass(frozen=True)
class SegmentedPicture:
    """A picture that is done."""

    header: Header
    computed: Computed
    decode_seconds: float
    warnings: tuple[str, ...] = ()
    """What the caller should know about the picture."""


def note_pictures(context: RequestContext, pictures: Sequence[SegmentedPicture]) -> None:
    """Let the request's line in the log tell of its pictures: model, sizes, multiply-accumulates."""
    if pictures:
        sizes = dict.fromkeys(f"{picture.header.width}x{picture.header.height}" for picture in pictures)
        context.noted["model"] = pictures[0].computed.info.name
        context.noted["pictures"] = ",".join(sizes)
        context.noted["flops"] = sum(picture.computed.prediction.plan.flops for picture in pictures)


class Pipeline:
    """Everything between HTTP and the engine. Made and used on the event loop's thread."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        make_engine: MakeEngine | None = None,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Args: see `Lifecycle`."""
        self.settings, self.metrics = settings, metrics
        self.admission = Admission(settings.max_concurrent_pictures, settings.max_queue_pixels, lambda: self.lifecycle.retry_after())
        self._decode_slots = DecodeSlots(settings.decode_threads)
        self.lifecycle = Lifecycle(settings, metrics, make_engine, on_lost, lambda: self.admission.pictures)
        self.models = self.lifecycle.models

    def enter(self, name: str | None = None, deadline: float | None = None, priority: str = DEFAULT_PRIORITY) -> None:
        """What a request to /segment meets before its body is read: whether there is a model, and room for a picture.

        Args:
            name: of the model; None: the first one.
            deadline: in seconds of the event loop's clock; None: the body may yet name it, and the model.

        Raises:
            Loading, Draining, Unavailable: nothing can compute now.
            UnknownModel: there is no model of this name.
            Overloaded: no room, or no picture could be done by then.
        """
        model = self.models.any() if deadline is None else self.models.find(name)
        self.admission.check()
        if deadline is not None:
            model.engine.backlog.check(_monotonic(deadline), priority)

    async def in_pool(self, function: Callable[A, T], *args: A.args, **kwargs: A.kwargs) -> T:
        """Run `function` on a reading thread."""
        return await asyncio.get_running_loop().run_in_executor(self.lifecycle.pool, partial(function, *args, **kwargs))

    async def segment(self, data: bytes, parameters: SegmentParameters, arrived: float, quota: Quota = UNLIMITED) -> SegmentedPicture:
        """Segment one picture with the model that the parameters name.

        Args:
            data: the encoded picture.
            arrived: when the request came, in seconds of the event loop's clock; the deadline counts from there.
            quota: the caller's.

        Raises:
            ServiceError: whatever is wrong; see errors.py.
        """
        began = time.perf_counter()
        deadline = arrived + (parameters.deadline_ms or self.settings.deadline_ms) / 1000
        with self.models.use(parameters.model) as model, quota.picture(), self.admission.permit() as permit:
            engine, options = model.engine, options_of(parameters, model.info)
            try:
                async with asyncio.timeout_at(deadline) as timer:
                    read = await self.in_pool(self._read, engine, data, parameters, options, _monotonic(deadline), permit, quota)
            except TimeoutError as error:
                if not timer.expired():
                    raise
                raise DeadlineExceeded("the deadline passed before the picture was decoded") from error
            self.metrics.stage("decode", read.decode_seconds)
            read_at = time.perf_counter()
            if isinstance(read.picture, LargePicture):
                computed = await segment_large(engine, self.in_pool, read.picture, read.promise)
            else:
                computed = await engine.segment(read.picture, read.promise)
            computed = replace(computed, info=model.named(computed.info))
            if current_span() is not None:
                resize_seconds = read.picture.resize_seconds if isinstance(read.picture, Picture) else 0.0
                span_picture(began, read_at, read.header, (read.decode_seconds, resize_seconds), computed)
        return SegmentedPicture(read.header, computed, read.decode_seconds, read.warnings)

    def _read(
        self,
        engine: Engine,
        data: bytes,
        parameters: SegmentParameters,
        options: SegmentationOptions,
        deadline: float,
        permit: Permit,
        quota: Quota,
    ) -> "_Read":
        """Header, admission, decoding and resizing, on a reading thread. Args: deadline: in seconds of `time.monotonic`."""
        opened = OpenedPicture(data, self.settings.max_pixels)
        try:
            size = opened.header.height, opened.header.width
            plan, layout = plan_of(parameters, size, engine, options.tasks)
            work = Work(plan, size[0] * size[1], options.tasks) if layout is None else work_of(layout, options.tasks)
            promise = engine.backlog.admit(work, deadline, parameters.priority)
            permit.on_close(lambda: engine.backlog.discard(promise))
            quota.take_pixels(work.all_pixels)
            with self._decode_slots.slot(deadline):
                permit.hold_pixels(size[0] * size[1])
                started = time.perf_counter()
                decoded = opened.decode(parameters.spread)
                seconds = time.perf_counter() - started
                header = decoded.header
                if (header.height, header.width) != size:  # known better, now that it is decoded
                    plan, layout = plan_of(parameters, (header.height, header.width), engine, options.tasks)
                if layout is not None:  # its pixels stay held: windows are cut from them one by one
                    engine.backlog.read(promise, seconds)
                    return _Read(header, decoded.warnings, LargePicture(decoded.rgb, layout, options), promise, seconds)
                image, warnings = decoded.rgb, decoded.warnings
                del decoded
                resized = engine.resize(image, plan)
                del image
                permit.release_pixels()
        finally:
            opened.close()
        done = time.perf_counter()
        engine.backlog.read(promise, done - started)

        def decode_again() -> NDArray[np.uint8]:
            return read_picture(data, self.settings.max_pixels, parameters.spread).rgb

        return _Read(header, warnings, Picture(resized, options, plan, done - started - seconds, decode_again), promise, seconds)


@dataclass(frozen=True)
class _Read:
    """A picture that was admitted and decoded."""

    header: Header
    warnings: tuple[str, ...]
    """About the picture."""
    picture: Picture | LargePicture
    promise: Admitted
    decode_seconds: float


def _monotonic(deadline: float) -> float:
    """A time of the event loop's clock in seconds of `time.monotonic`, which all threads share."""
    return time.monotonic() + deadline - asyncio.get_running_loop().time()
