"""Faults of what computes, in one process: it raises, hangs, runs out of memory; and clocks that step."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, http, metric, serving, until
from .conftest import Tell
from .load import Load, ask

pytestmark = pytest.mark.slow
PICTURE = encoded(blob())


class Faulty(ThresholdPredictor):
    """Raises `error` while there is one."""

    error: BaseException | None = None

    def segment_resized(self, *arguments: Any, **named: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super().segment_resized(*arguments, **named)


@pytest.fixture
def engine() -> Faulty:
    return Faulty()


@pytest.fixture
def server(engine: Faulty) -> Iterator[Running]:
    with serving(engine, log_level="error") as running:
        yield running


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), MemoryError("out of memory"), RecursionError("deep"), StopIteration()])
def test_an_engine_that_raises_fails_its_pictures_alone(server: Running, engine: Faulty, error: Exception, tell: Tell) -> None:
    with Load(server.url, PICTURE) as load:
        load.wait_for(20)
        engine.error = error
        until(lambda: load.counts[500] >= 8)
        mended = time.monotonic()
        engine.error = None
        tell("from the mend to masks", load.recovered_after(mended))
        load.wait_for(20)
    load.check(500)
    assert http.get(f"{server.url}/health/ready").status_code == 200
    assert metric(server.url, "proscale_queue_depth") == 0


def test_a_hanging_engine_fails_by_deadline_and_recovers(server: Running, engine: Faulty, tell: Tell) -> None:
    with Load(server.url, PICTURE, query="?deadline_ms=1000") as load:
        load.wait_for(20)
        engine.gate.clear()
        until(lambda: load.counts[504] >= 4)
        assert http.get(f"{server.url}/health/live").status_code == 200
        mended = time.monotonic()
        engine.gate.set()
        tell("from the mend to masks", load.recovered_after(mended))
        load.wait_for(20)
    # Once it is known that nothing gets done, pictures are refused at once.
    load.check(504, 429)
    assert server.pipeline.admission.pictures == 0


def test_clocks_that_step_change_nothing(server: Running, engine: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    real, step = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + step)
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + step) * 1e9))
    with Load(server.url, PICTURE, query="?deadline_ms=20000") as load:
        for step in (0.0, 7200.0, -7200.0, -2e9, 0.0):  # noqa: B007  (read by the clock above)
            load.wait_for(10)
    load.check()
    assert ask(server.url, PICTURE).what == 200


def test_an_unread_answer_is_freed(engine: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proscale_service.server.UNREAD_S", 2.0)
    noise = np.random.default_rng(0).integers(0, 2, (1500, 1500, 3), np.uint8) * 255
    noise[0, 0] = 0
    body = encoded(noise)
    with serving(engine, log_level="error") as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        deaf.sendall(f"POST /segment HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: metric(server.url, 'proscale_requests_total{status="200",task="panoptic"}') == 1)
        mine = deaf.getsockname()[1]
        assert connections_to(mine), "it is being sent"
        until(lambda: not connections_to(mine))
        with Load(server.url, PICTURE) as load:
            load.wait_for(5)
        load.check()


def connections_to(port: int) -> int:
    """Connections of this machine that are open and have this port at their other end."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[2].rpartition(":")[2], 16) == port and row[3] == "01" for row in rows)


def test_many_faults_at_once_leave_nothing_behind(server: Running, engine: Faulty) -> None:
    threads = threading.active_count()
    with Load(server.url, PICTURE, clients=8, query="?deadline_ms=2000") as load:
        for _ in range(3):
            engine.error = MemoryError()
            until(lambda: load.counts[500] >= 1)
            engine.gate.clear()
            engine.error = None
            time.sleep(0.2)
            engine.gate.set()
            load.wait_for(5)
    load.check(500, 504, 429)
    until(lambda: server.pipeline.admission.pictures == 0 and metric(server.url, "proscale_queue_depth") == 0)
    assert len(server.pipeline.models.find().engine.backlog) == 0
    assert threading.active_count() <= threads + 16, "as many as read pictures"
