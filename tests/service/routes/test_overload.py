import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from proscale.geometry import ResizedPicture
from proscale.results import Prediction

from ..predictors import ThresholdPredictor
from ..serving import PATIENCE_S, Running, metric, serving, until
from .asking import OCTETS, PICTURE, post, problem


def test_a_full_service_answers_429_at_once() -> None:
    engine = ThresholdPredictor()
    with serving(engine, max_concurrent_pictures=1) as server:
        engine.gate.clear()
        with ThreadPoolExecutor(1) as executor:
            held = executor.submit(post, server)
            until(lambda: server.pipeline.admission.pictures == 1)
            started = time.perf_counter()
            response = post(server)
            assert time.perf_counter() - started < 30
            problem(response, 429, "overloaded")
            assert 1 <= int(response.headers["retry-after"]) <= 60
            address = httpx.URL(server.url)
            with socket.create_connection((address.host, address.port or 80), timeout=PATIENCE_S) as bodiless:
                bodiless.sendall(b"POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 999\r\n\r\n")
                assert bodiless.recv(100).startswith(b"HTTP/1.1 429 "), "the body was waited for"
            engine.gate.set()
            assert held.result().status_code == 200
        assert metric(server.url, 'proscale_rejected_total{reason="overloaded"}') == 2
        assert post(server).status_code == 200


def test_pixels_are_bounded_too() -> None:
    with serving(ThresholdPredictor(), max_pixels=6144, max_queue_pixels=6144) as server:
        assert post(server).status_code == 200
        with occupied(server, 6000):
            problem(post(server), 429, "overloaded")
        assert post(server).status_code == 200


@contextmanager
def occupied(server: Running, pixels: int) -> Iterator[None]:
    """As if pictures of so many pixels were being worked on."""
    server.pipeline.admission.pixels += pixels
    yield
    server.pipeline.admission.pixels -= pixels


class OneByOne(ThresholdPredictor):
    """A machine on which batches gain nothing, as a CPU."""

    def segment_resized(self, pictures: Sequence[ResizedPicture], *others: Any) -> list[Prediction]:
        time.sleep(self.delay_s * (len(pictures) - 1))
        return super().segment_resized(pictures, *others)


@pytest.mark.slow
def test_under_five_times_the_work_promises_are_kept_and_the_rest_is_refused() -> None:
    delay_s, deadline_s, window_s = 0.1, 2.0, 6.0
    answers: list[tuple[int, str, float]] = []

    def ask(client: httpx.Client, url: str) -> None:
        started = time.perf_counter()
        response = client.post(f"{url}/segment?deadline_ms={deadline_s * 1e3:.0f}", content=PICTURE, headers=OCTETS)
        kind = "" if response.status_code == 200 else response.json()["type"].rpartition(":")[2]
        answers.append((response.status_code, kind, time.perf_counter() - started))

    with serving(OneByOne(delay_s)) as server, httpx.Client(timeout=PATIENCE_S) as client, ThreadPoolExecutor(60) as pool:
        ask(client, server.url)  # something is measured
        answers.clear()
        end = time.perf_counter() + window_s
        while time.perf_counter() < end:
            pool.submit(ask, client, server.url)
            time.sleep(delay_s / 5)
        pool.shutdown()
        done = [seconds for status, _, seconds in answers if status == 200]
        refused = [kind for status, kind, _ in answers if status == 429]
        late = [kind for status, kind, _ in answers if status == 504]
        assert len(done) + len(refused) + len(late) == len(answers)
        assert set(refused) == {"backlog"}
        # At least half of what a quiet machine does, on a busy one; without promises next to nothing is left.
        assert len(done) >= 0.5 * window_s / delay_s
        assert len(late) <= max(1, 0.05 * len(done))
        assert server.pipeline.models.find().engine.depth == 0
        assert len(server.pipeline.models.find().engine.backlog) == 0


def test_a_picture_that_cannot_be_in_time_is_refused_before_its_body_is_read() -> None:
    predictor = ThresholdPredictor(delay_s=0.2)
    with serving(predictor) as server:
        assert post(server).status_code == 200
        predictor.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            held = [pool.submit(post, server) for _ in range(3)]
            until(lambda: len(server.pipeline.models.find().engine.backlog) == 3)
            address = httpx.URL(server.url)
            with socket.create_connection((address.host, address.port or 80), timeout=PATIENCE_S) as bodiless:
                head = "POST /segment?deadline_ms=30 HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 999\r\n\r\n"
                bodiless.sendall(head.encode())
                assert bodiless.recv(100).startswith(b"HTTP/1.1 429 "), "the body was waited for"
            predictor.gate.set()
            assert [each.result().status_code for each in held] == [200] * 3


def test_priorities_are_accepted_and_unknown_ones_refused() -> None:
    with serving(ThresholdPredictor()) as server:
        assert post(server, priority="bulk").status_code == 200
        assert "priority" in problem(post(server, priority="urgent"), 422, "invalid-parameter")
