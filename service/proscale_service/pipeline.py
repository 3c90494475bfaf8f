"""One picture on its way from bytes to masks."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from proscale.pictures import Header, Intensity
from proscale.results import SegmentationOptions
from proscale_service.access.quota import UNLIMITED, Quota
from proscale_service.admission import Admission, DecodeSlots, Permit
from proscale_service.engines.backlog import DEFAULT_PRIORITY, Admitted
from proscale_service.engines.base import Computed, Engine, MakeEngine, Picture
from proscale_service.engines.costs import Work
from proscale_service.errors import DeadlineExceeded
from proscale_service.images import OpenedPicture, read_picture
from proscale_service.lifecycle import Lifecycle
from proscale_service.metrics import Metrics
from proscale_service.options import options_of
from proscale_service.requests import SegmentParameters
from proscale_service.settings import Settings

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
        deadline = arrived + (parameters.deadline_ms or self.settings.deadline_ms) / 1000
        with self.models.use(parameters.model) as model, quota.picture(), self.admission.permit() as permit:
            engine, options = model.engine, options_of(parameters, model.info)
            try:
                async with asyncio.timeout_at(deadline) as timer:
                    header, warnings, picture, promise, decode_seconds = await self.in_pool(
                        self._read, engine, data, parameters.spread, options, _monotonic(deadline), parameters.priority, permit, quota
                    )
            except TimeoutError as error:
                if not timer.expired():
                    raise
                raise DeadlineExceeded("the deadline passed before the picture was decoded") from error
            self.metrics.stage("decode", decode_seconds)
            computed = await engine.segment(picture, promise)
            computed = replace(computed, info=model.named(computed.info))
        return SegmentedPicture(header, computed, decode_seconds, warnings)

    def _read(
        self,
        engine: Engine,
        data: bytes,
        intensity: Intensity,
        options: SegmentationOptions,
        deadline: float,
        priority: str,
        permit: Permit,
        quota: Quota,
    ) -> tuple[Header, tuple[str, ...], Picture, Admitted, float]:
        """Header, admission, decoding and resizing, on a reading thread.

        Args:
            deadline: in seconds of `time.monotonic`.

        Returns:
            the header, warnings about the picture, the picture, the promise that it got, and the seconds of decoding.
        """
        opened = OpenedPicture(data, self.settings.max_pixels)
        try:
            pixels = opened.header.height * opened.header.width
            plan = engine.plan(opened.header.height, opened.header.width, options.tasks)
            promise = engine.backlog.admit(Work(plan, pixels, options.tasks), deadline, priority)
            permit.on_close(lambda: engine.backlog.discard(promise))
            quota.take_pixels(pixels)
            with self._decode_slots.slot(deadline):
                permit.hold_pixels(pixels)
                started = time.perf_counter()
                decoded_picture = opened.decode(intensity)
                image, header, warnings = decoded_picture.rgb, decoded_picture.header, decoded_picture.warnings
                decoded = time.perf_counter()
                resized = engine.resize(image)
                del image, decoded_picture
                permit.release_pixels()
        finally:
            opened.close()
        if (header.height, header.width) != (opened.header.height, opened.header.width):  # known better, now that it is decoded
            plan = engine.plan(header.height, header.width, options.tasks)
        done = time.perf_counter()
        engine.backlog.read(promise, done - started)
        picture = Picture(resized, options, plan, done - decoded, lambda: read_picture(data, self.settings.max_pixels, intensity).rgb)
        return header, warnings, picture, promise, decoded - started


def _monotonic(deadline: float) -> float:
    """A time of the event loop's clock in seconds of `time.monotonic`, which all threads share."""
    return time.monotonic() + deadline - asyncio.get_running_loop().time()
