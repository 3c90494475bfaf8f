"""Many pictures at once through both kinds of client, against a real server."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from proscale_service.client import AsyncClient, Client, Outcome
from proscale_service.errors import UndecodableImage

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, serving


def pictures(count: int = 9) -> list[Any]:
    """Bright rectangles of growing width; the fourth is none."""
    made: list[Any] = [blob(box=(5, 5, 10 + i, 12)) for i in range(count)]
    made[3] = b"no picture"
    return made


async def outcomes(kind: str, server: Running, given: Any, **options: Any) -> list[Outcome]:
    if kind == "sync":
        with Client(server.url) as client:
            return await asyncio.to_thread(lambda: list(client.segment_many(given, labels="blob", **options)))
    async with AsyncClient(server.url) as client:
        return [outcome async for outcome in client.segment_many(given, labels="blob", **options)]


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestBoth:
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_every_picture_has_its_own_outcome(self, kind: str, server: Running, ordered: bool, concurrency: int) -> None:
        told: list[tuple[int, int | None]] = []
        found = await outcomes(kind, server, pictures(), concurrency=concurrency, ordered=ordered, progress=lambda *each: told.append(each))
        if ordered:
            assert [outcome.index for outcome in found] == list(range(9))
        assert sorted(outcome.index for outcome in found) == list(range(9))
        for outcome in found:
            if outcome.index == 3:
                assert isinstance(outcome.error, UndecodableImage)
                with pytest.raises(UndecodableImage):
                    outcome.result()
            else:
                assert outcome.result().segments[0].bbox == (5, 5, 10 + outcome.index, 12)
        assert told == [(i, 9) for i in range(1, 10)]

    async def test_a_bar_is_drawn(self, kind: str, server: Running, capsys: pytest.CaptureFixture[str]) -> None:
        await outcomes(kind, server, iter([blob()] * 2), progress=True, total=2)
        assert "2/2" in capsys.readouterr().err

    async def test_connections_and_pictures_in_flight_are_bounded(self, kind: str) -> None:
        busy = ThresholdPredictor(delay_s=0.02)
        taken = 0

        def lazily() -> Iterator[np.ndarray]:
            nonlocal taken
            for _ in range(12):
                taken += 1
                yield blob()

        with serving(busy, max_concurrent_pictures=64) as server:
            most: list[int] = []

            def watch() -> None:
                while not stop.wait(0.002):
                    most.append(server.pipeline.admission.pictures)

            stop = threading.Event()
            watcher = threading.Thread(target=watch)
            watcher.start()
            found = await outcomes(kind, server, lazily(), concurrency=3)
            stop.set()
            watcher.join()
        assert len(found) == 12
        assert taken == 12
        assert 1 <= max(most) <= 3

    async def test_fewer_than_one_at_a_time_is_an_error(self, kind: str, server: Running) -> None:
        with pytest.raises(ValueError, match="concurrency"):
            await outcomes(kind, server, [], concurrency=0)

    async def test_no_pictures_are_no_error(self, kind: str, server: Running) -> None:
        assert await outcomes(kind, server, []) == []


def test_leaving_the_loop_sends_no_more_requests() -> None:
    predictor = ThresholdPredictor(delay_s=0.02)
    with serving(predictor) as server, Client(server.url) as client:
        for outcome in client.segment_many([blob()] * 1000, concurrency=2):
            assert outcome.result()
            break
        time.sleep(0.3)
        calls = predictor.calls
        time.sleep(0.3)
        assert predictor.calls == calls < 20


async def test_leaving_the_asynchronous_loop_sends_no_more_requests() -> None:
    predictor = ThresholdPredictor(delay_s=0.02)
    with serving(predictor) as server:
        async with AsyncClient(server.url) as client:
            many = client.segment_many([encoded(blob())] * 1000, concurrency=2)
            assert (await anext(many)).result()
            await many.aclose()
        calls = predictor.calls
        await asyncio.sleep(0.3)
        assert predictor.calls <= calls + 2


def test_many_go_through_a_server_that_has_room_for_one() -> None:
    with serving(ThresholdPredictor(delay_s=0.01), max_concurrent_pictures=1) as server, Client(server.url) as client:
        found = list(client.segment_many([blob()] * 6, concurrency=3))
    assert [outcome.error for outcome in found] == [None] * 6
