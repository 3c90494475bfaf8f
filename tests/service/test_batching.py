import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from proscale.batch_sizes import BatchSizes
from proscale.results import Plan, Prediction
from proscale_service.engines.backlog import Backlog
from proscale_service.engines.base import Computed, Picture
from proscale_service.engines.batching import Batcher
from proscale_service.errors import DeadlineExceeded, Draining, EngineFailure, ServiceError, Unprocessable
from proscale_service.metrics import Metrics

from .pictures import blob, prepared, promised
from .predictors import ThresholdPredictor

SMALL, WIDE, TALL = (30, 60), (30, 100), (100, 30)
PIXELS = 32 * 64
"""Padded pixels of SMALL."""


class Unbounded(BatchSizes):
    """As where batches gain without end."""

    def limit(self, padded: tuple[int, int]) -> int:
        return self._most


@asynccontextmanager
async def batching(engine: ThresholdPredictor, **options: Any) -> AsyncIterator[Batcher]:
    def compute(pictures: Sequence[Picture]) -> list[Prediction]:
        return engine.segment_resized(*([getattr(each, name) for each in pictures] for name in ("resized", "options", "plan")))

    with ThreadPoolExecutor(1, "engine") as executor:
        metrics = options.pop("metrics", Metrics())
        defaults = {"max_batch_pixels": 4 * PIXELS, "batch_sizes": Unbounded(64)}
        batcher = Batcher(compute, engine.info, executor, metrics, Backlog(), **(defaults | options))
        try:
            yield batcher
        finally:
            engine.gate.set()
            await batcher.drain(60)


def submit(batcher: Batcher, engine: ThresholdPredictor, picture: np.ndarray, seconds: float = 60) -> "asyncio.Task[Computed]":
    read = prepared(engine, picture)
    return asyncio.create_task(batcher.submit(read, promised(batcher._backlog, read, seconds)))


async def hold(batcher: Batcher, engine: ThresholdPredictor) -> "asyncio.Task[Computed]":
    """Occupy the engine with one picture, so that what follows queues up."""
    engine.gate.clear()
    task = submit(batcher, engine, blob(*SMALL))
    while batcher.depth or not batcher._running:
        await asyncio.sleep(0.001)
    return task


def coloured(colour: tuple[int, int, int]) -> np.ndarray:
    picture = blob(*SMALL)
    picture[0, 0] = colour
    return picture


async def test_a_lone_picture_comes_back_with_its_own_masks() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        done = await submit(batcher, engine, blob(box=(10, 20, 30, 25)))
        assert done.prediction.results["panoptic"].segments[0].bbox == (10, 20, 30, 25)
        assert done.batch_size == 1
    assert engine.threads == {"engine_0"}


async def test_waiting_pictures_are_batched_by_padded_size() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        tasks = [await hold(batcher, engine)]
        boxes = [(1 + i, 2, 5, 6) for i in range(6)]
        tasks += [submit(batcher, engine, blob(*size, box=box)) for size, box in zip([SMALL, WIDE, SMALL] * 2, boxes, strict=True)]
        await asyncio.sleep(0)
        assert batcher.depth == 6
        engine.gate.set()
        done = await asyncio.gather(*tasks)
    assert engine.batches == [[SMALL], [SMALL] * 4, [WIDE] * 2]
    assert [each.batch_size for each in done] == [1, 4, 2, 4, 4, 2, 4]
    assert [each.prediction.results["panoptic"].segments[0].bbox for each in done[1:]] == boxes


async def test_the_budget_is_in_pixels_and_never_starves_the_large() -> None:
    engine = ThresholdPredictor()
    async with batching(engine, max_batch_pixels=3 * PIXELS) as batcher:
        tasks = [await hold(batcher, engine)]
        tasks += [submit(batcher, engine, blob(*SMALL)) for _ in range(7)]
        tasks += [submit(batcher, engine, blob(320, 320))]
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in engine.batches] == [1, 3, 3, 1, 1]
    assert engine.batches[-1] == [(320, 320)]


async def test_the_oldest_goes_first_however_busy_another_size_is() -> None:
    engine = ThresholdPredictor()
    async with batching(engine, max_batch_pixels=2 * PIXELS) as batcher:
        tasks = [await hold(batcher, engine)]
        tasks += [submit(batcher, engine, blob(*SMALL)) for _ in range(2)]
        tasks += [submit(batcher, engine, blob(*TALL))]
        tasks += [submit(batcher, engine, blob(*SMALL)) for _ in range(6)]
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert [batch[0] for batch in engine.batches] == [SMALL, SMALL, TALL, SMALL, SMALL, SMALL]


async def test_a_passed_deadline_is_answered_at_once_and_never_computed() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        first = await hold(batcher, engine)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await submit(batcher, engine, blob(*WIDE), seconds=0.05)
        assert time.monotonic() - started < 30
        assert batcher.depth == 0
        engine.gate.set()
        await first
    assert engine.batches == [[SMALL]]


async def test_a_deadline_in_the_past_is_not_computed_even_by_an_idle_engine() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        with pytest.raises(DeadlineExceeded):
            await submit(batcher, engine, blob(*SMALL), seconds=-1)
    assert engine.batches == []


async def test_a_deadline_that_passes_while_computing_is_kept_too() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        engine.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await submit(batcher, engine, blob(*SMALL), seconds=0.05)


async def test_pictures_of_disconnected_clients_are_dropped() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        first = await hold(batcher, engine)
        leaving, staying = submit(batcher, engine, blob(*WIDE)), submit(batcher, engine, blob(*TALL))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        assert batcher.depth == 1
        engine.gate.set()
        await asyncio.gather(first, staying)
    assert engine.batches == [[SMALL], [TALL]]


@pytest.mark.parametrize(("colour", "error"), [(ThresholdPredictor.POISON, EngineFailure), (ThresholdPredictor.REFUSED, Unprocessable)])
async def test_a_failing_picture_does_not_affect_its_batch(colour: tuple[int, int, int], error: type[ServiceError]) -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        first = await hold(batcher, engine)
        tasks = [submit(batcher, engine, picture) for picture in (blob(*SMALL), coloured(colour), blob(*SMALL))]
        await asyncio.sleep(0)
        engine.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Computed, error, Computed]
        assert "poison" not in str(results[1])
        await first
    assert engine.batches[1:] == [[SMALL] * 3, [SMALL], [SMALL], [SMALL]]


async def test_an_engine_that_miscounts_is_a_failure_not_a_hang() -> None:
    class Miscounting(ThresholdPredictor):
        def segment_resized(self, *arguments: Any) -> Any:
            return super().segment_resized(*arguments)[1:]

    engine = Miscounting()
    async with batching(engine) as batcher:
        with pytest.raises(EngineFailure):
            await submit(batcher, engine, blob(*SMALL))
        with pytest.raises(EngineFailure):
            await submit(batcher, engine, blob(*SMALL))


async def test_an_error_in_the_batching_loop_does_not_stop_it() -> None:
    class Broken(Metrics):
        def stage(self, stage: str, seconds: float) -> None:
            raise ArithmeticError

    engine = ThresholdPredictor()
    async with batching(engine, metrics=Broken()) as batcher:
        for _ in range(2):
            with pytest.raises(EngineFailure):
                await submit(batcher, engine, blob(*SMALL))


async def test_drain_finishes_admitted_pictures_and_admits_no_more() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        tasks = [await hold(batcher, engine), submit(batcher, engine, blob(*WIDE)), submit(batcher, engine, blob(*TALL))]
        await asyncio.sleep(0)
        draining = asyncio.create_task(batcher.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await submit(batcher, engine, blob(*SMALL))
        engine.gate.set()
        await draining
        assert all(isinstance(done, Computed) for done in await asyncio.gather(*tasks))


async def test_pictures_that_cannot_be_finished_at_shutdown_get_an_error() -> None:
    engine = ThresholdPredictor()
    async with batching(engine) as batcher:
        tasks = [await hold(batcher, engine), submit(batcher, engine, blob(*WIDE))]
        await asyncio.sleep(0)
        draining = asyncio.create_task(batcher.drain(0.05))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Draining, Draining]
        engine.gate.set()
        await draining
    assert engine.batches == [[SMALL]]


async def test_it_waits_for_mates_that_are_on_their_way_only() -> None:
    engine, admitted = ThresholdPredictor(), [1]
    async with batching(engine, max_wait_s=100, admitted=lambda: admitted[0]) as batcher:
        started = time.monotonic()
        await submit(batcher, engine, blob(*SMALL))
        assert time.monotonic() - started < 50, "waited although nobody else is there"
        admitted[0] = 2
        first = submit(batcher, engine, blob(*SMALL))
        await asyncio.sleep(0.05)
        assert engine.batches == [[SMALL]], "did not wait"
        second = submit(batcher, engine, blob(*SMALL))
        assert [(await task).batch_size for task in (first, second)] == [2, 2]


async def test_the_wait_for_mates_ends() -> None:
    engine = ThresholdPredictor()
    async with batching(engine, max_wait_s=0.05, admitted=lambda: 2) as batcher:
        assert (await submit(batcher, engine, blob(*SMALL))).queue_seconds >= 0.045


async def test_a_full_batch_does_not_wait() -> None:
    engine = ThresholdPredictor()
    async with batching(engine, max_wait_s=100, admitted=lambda: 9, max_batch_pixels=2 * PIXELS) as batcher:
        done = await asyncio.gather(*[submit(batcher, engine, blob(*SMALL)) for _ in range(2)])
        assert [each.batch_size for each in done] == [2, 2]


async def test_large_pictures_count_though_the_network_sees_them_small() -> None:
    class Shrinking(ThresholdPredictor):
        def plan(self, height: int, width: int, tasks: Any) -> Plan:
            return Plan((32, 32), (32, 32), 3, 4)

    engine = Shrinking()
    async with batching(engine, max_batch_pixels=10_000) as batcher:
        tasks = [await hold(batcher, engine)]
        tasks += [submit(batcher, engine, blob(60, 80)) for _ in range(4)]
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in engine.batches] == [1, 2, 2]
