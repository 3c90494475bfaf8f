import asyncio

import numpy as np
import pytest

from proscale_service.engines.base import Computed
from proscale_service.engines.forwarding import Forwarder
from proscale_service.errors import DeadlineExceeded, Draining, EngineFailure, Overloaded, ServiceError, Unavailable, Unprocessable
from proscale_service.metrics import Metrics

from .engines_remote import RemoteThreshold
from .pictures import blob, prepared, promised
from .predictors import ThresholdPredictor


def submit(forwarder: Forwarder, engine: RemoteThreshold, picture: np.ndarray, seconds: float = 60) -> "asyncio.Task[Computed]":
    read = prepared(engine, picture)
    return asyncio.create_task(forwarder.submit(read, promised(forwarder._backlog, read, seconds)))


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def coloured(colour: tuple[int, int, int]) -> np.ndarray:
    picture = blob()
    picture[0, 0] = colour
    return picture


async def test_several_pictures_in_flight_get_their_own_masks() -> None:
    engine = RemoteThreshold()
    forwarder = engine.forward()
    engine.gate.clear()
    boxes = [(1 + i, 2, 5, 6) for i in range(4)]
    tasks = [submit(forwarder, engine, blob(box=box)) for box in boxes]
    await asyncio.sleep(0.01)
    assert forwarder.depth == 4
    engine.gate.set()
    done = await asyncio.gather(*tasks)
    assert [each.prediction.results["panoptic"].segments[0].bbox for each in done] == boxes
    assert {each.info for each in done} == {engine.info}
    assert forwarder.depth == 0


async def test_every_batch_is_counted_once() -> None:
    metrics = Metrics()
    engine = RemoteThreshold(batch_size=4)
    forwarder = engine.forward(metrics)
    assert forwarder._backlog.expected_seconds() is None
    done = await asyncio.gather(*(submit(forwarder, engine, blob()) for _ in range(8)))
    assert [each.batch_size for each in done] == [4] * 8
    assert sample(metrics, "proscale_batch_size_sum") == 8
    assert sample(metrics, "proscale_batch_size_count") == 2
    assert sample(metrics, "proscale_stage_duration_seconds_count", stage="infer") == 2
    assert sample(metrics, "proscale_stage_duration_seconds_count", stage="postprocess") == 8
    plan = engine.plan(*blob().shape[:2], ("panoptic",))  # type: ignore[call-arg]
    assert sample(metrics, "proscale_flops_total", encoder="proscale") == 8 * plan.flops
    # Of the engine's 10 ms three are shared by four pictures.
    costs = forwarder._backlog.costs
    work = prepared(engine, blob()).work
    assert costs.batch_seconds([work] * 4) == pytest.approx(0.003 + 4 * 0.007)
    assert costs.seconds(work) == pytest.approx(0.003 / 4 + 0.007)


async def test_deadlines_and_disconnects_cancel_the_picture() -> None:
    engine = RemoteThreshold()
    forwarder = engine.forward()
    engine.gate.clear()
    late, left = submit(forwarder, engine, blob(), seconds=0.02), submit(forwarder, engine, blob())
    with pytest.raises(DeadlineExceeded):
        await late
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    await asyncio.sleep(0.01)
    assert (engine.cancelled, forwarder.depth) == (2, 0)
    engine.gate.set()
    await submit(forwarder, engine, blob())
    assert engine.computed == 1


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(ThresholdPredictor.POISON, EngineFailure), (ThresholdPredictor.REFUSED, Unprocessable)],
)
async def test_a_failure_affects_one_picture_only(failure: tuple[int, int, int], expected: type[ServiceError]) -> None:
    engine = RemoteThreshold()
    forwarder = engine.forward()
    good, bad = submit(forwarder, engine, blob()), submit(forwarder, engine, coloured(failure))
    with pytest.raises(expected):
        await bad
    assert (await good).batch_size == 1


async def test_refusals_keep_their_meaning() -> None:
    engine = RemoteThreshold(up=False)
    with pytest.raises(Unavailable, match="away"):
        await submit(engine.forward(), engine, blob())

    async def refuse(*_: object) -> None:
        raise Overloaded("full")

    engine.send = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(Overloaded, match="full") as caught:
        await submit(engine.forward(), engine, blob())
    assert caught.value.retry_after == 1


async def test_draining_finishes_sent_pictures_and_admits_no_more() -> None:
    engine = RemoteThreshold()
    forwarder = engine.forward()
    engine.gate.clear()
    task = submit(forwarder, engine, blob())
    await asyncio.sleep(0.01)
    drained = asyncio.create_task(forwarder.drain(60))
    await asyncio.sleep(0.01)
    with pytest.raises(Draining):
        await submit(forwarder, engine, blob())
    engine.gate.set()
    await drained
    assert (await task).batch_size == 1


async def test_pictures_not_done_in_time_are_cancelled() -> None:
    engine = RemoteThreshold()
    forwarder = engine.forward()
    engine.gate.clear()
    task = submit(forwarder, engine, blob())
    await asyncio.sleep(0.01)
    await forwarder.drain(0.01)
    with pytest.raises(Draining):
        await task
    assert engine.cancelled == 1
