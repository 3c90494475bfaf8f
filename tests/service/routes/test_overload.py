import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from ..predictors import ThresholdPredictor
from ..serving import PATIENCE_S, Running, metric, serving, until
from .asking import post, problem


def test_a_full_house_answers_429_at_once() -> None:
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
