"""A large picture, window by window, through the engine: as many windows at once as keep it busy, merged in their order."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import SegmentationOptions
from proscale.runtime import MAX_BATCH_PICTURES
from proscale.tiles import Layout, merged_prediction
from proscale.tiles.segment import WindowTimes, add_window, make_mergers, window_options
from proscale_service.engines.backlog import Admitted
from proscale_service.engines.base import Computed, Engine, Picture
from proscale_service.engines.costs import Work

A = ParamSpec("A")
T = TypeVar("T")

_AT_ONCE = 2 * MAX_BATCH_PICTURES
"""Windows in the engine at once: one batch that is computed, and one that waits."""


class InPool(Protocol):
    """Runs a function on a reading thread."""

    def __call__(self, function: Callable[A, T], *args: A.args, **kwargs: A.kwargs) -> Awaitable[T]: ...


@dataclass(frozen=True)
class LargePicture:
    """A decoded picture and its windows."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB, at its own size."""
    layout: Layout
    options: SegmentationOptions
    """Of the whole picture."""


def work_of(layout: Layout, tasks: Sequence[Task]) -> Work:
    """What the engine has to do for all windows."""
    height, width = layout.window_size
    return Work(layout.window_plan, height * width, tuple(tasks), len(layout))


async def segment_large(engine: Engine, in_pool: InPool, picture: LargePicture, promise: Admitted) -> Computed:
    """Segment all windows. If one fails, the picture fails in the same way, and the others are cancelled.

    Args:
        promise: from the engine's backlog, for `work_of` the layout. Each window takes its part of it.

    Raises:
        ServiceError: see `Engine.segment`.
    """
    layout, options = picture.layout, window_options(picture.options)
    mergers, times = make_mergers(layout, options.tasks), WindowTimes()
    waiting: deque[tuple[asyncio.Task[Computed], Admitted]] = deque()
    first: Computed | None = None
    largest_batch = 1

    async def take_oldest() -> None:
        nonlocal first, largest_batch
        computed = await waiting[0][0]
        waiting.popleft()
        first = first or computed
        largest_batch = max(largest_batch, computed.batch_size)
        times.add(computed.prediction.timings, computed.batch_size)
        started = time.perf_counter()
        await in_pool(add_window, mergers, computed.prediction)
        times.add({"postprocess": time.perf_counter() - started})

    try:
        for index in range(len(layout)):
            while len(waiting) >= _AT_ONCE or (waiting and waiting[0][0].done()):
                await take_oldest()
            window = await in_pool(_cut, engine, picture, index, options)
            part = engine.backlog.split(promise)
            waiting.append((asyncio.ensure_future(engine.segment(window, part)), part))
        while waiting:
            await take_oldest()
    finally:
        for task, part in waiting:
            task.cancel()
            engine.backlog.discard(part)
        await asyncio.gather(*(task for task, _ in waiting), return_exceptions=True)
    assert first is not None
    prediction = await in_pool(merged_prediction, mergers, layout.plan, times.seconds, picture.options.max_segments)
    return replace(first, prediction=prediction, batch_size=largest_batch)


def _cut(engine: Engine, picture: LargePicture, index: int, options: SegmentationOptions) -> Picture:
    started = time.perf_counter()
    box = picture.layout.window(index)
    window = np.ascontiguousarray(picture.image[box.top : box.bottom, box.left : box.right])
    resized = engine.resize(window)
    return Picture(resized, options, picture.layout.window_plan, time.perf_counter() - started, lambda: window)
