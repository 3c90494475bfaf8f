import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from proscale_service.errors import ClientGone
from proscale_service.limits import unless_client_leaves

from .pictures import blob, encoded
from .predictors import ThresholdPredictor
from .serving import PATIENCE_S, Running, http, metric, serving, until

PICTURE = encoded(blob())
HEAD = b"POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n"
OCTETS = {"content-type": "application/octet-stream"}


def chunks(count: int, size: int = 10_000) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def converse(server: Running, request: bytes, seconds: float = PATIENCE_S) -> bytes:
    """Send raw bytes; whatever comes back until the server closes or says nothing more."""
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_stated_length_is_judged_before_the_body(server: Running) -> None:
    answer = converse(server, HEAD + b"content-length: 99999999\r\nexpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"].endswith("too-many-bytes")


def test_a_client_that_keeps_sending_still_gets_the_answer(server: Running) -> None:
    for content in (b"x" * 6_000_000, chunks(600)):
        response = http.post(f"{server.url}/segment", content=content, headers=OCTETS)
        assert response.status_code == 413
        assert response.headers["connection"] == "close"
        assert response.json()["status"] == 413


def test_a_client_that_reads_only_after_writing_gets_the_answer(server: Running) -> None:
    assert converse(server, HEAD + b"content-length: 7000000\r\n\r\n" + b"x" * 7_000_000).startswith(b"HTTP/1.1 413 ")


def test_a_refusal_keeps_the_connection_of_a_small_body_that_came() -> None:
    engine = ThresholdPredictor()
    with serving(engine, max_concurrent_pictures=1) as server, ThreadPoolExecutor(1) as pool:
        engine.gate.clear()
        held = pool.submit(http.post, f"{server.url}/segment", content=PICTURE, headers=OCTETS)
        until(lambda: server.pipeline.admission.pictures == 1)
        assert len(PICTURE) < 60_000
        large = b"x" * 300_000
        requests = HEAD + b"content-length: %d\r\n\r\n" % len(PICTURE) + PICTURE
        requests += HEAD + b"content-length: %d\r\n\r\n" % len(large) + large
        answers = converse(server, requests)
        engine.gate.set()
        assert held.result().status_code == 200
    assert answers.count(b"HTTP/1.1 429 ") == 2, "the second one came on the connection of the first"
    assert answers.lower().count(b"connection: close") == 1, "what is left of a large body would be taken for a request"


def test_chunks_are_counted(server: Running) -> None:
    assert http.post(f"{server.url}/segment", content=chunks(190), headers=OCTETS).status_code == 422
    assert http.post(f"{server.url}/segment", content=chunks(210), headers=OCTETS).status_code == 413


def test_an_endless_upload_is_cut_off(server: Running) -> None:
    started = time.monotonic()
    # Some clients see the answer, some only that the connection is closed on them.
    with suppress(httpx.TransportError):
        assert http.post(f"{server.url}/segment", content=chunks(10**6), headers=OCTETS).status_code == 413
    assert time.monotonic() - started < PATIENCE_S


def test_a_form_is_capped_too(server: Running) -> None:
    response = http.post(f"{server.url}/segment", files={"image": ("a.png", b"x" * 3_000_000)})
    assert response.status_code == 413


def test_after_refusals_the_server_still_serves(server: Running) -> None:
    assert http.post(f"{server.url}/segment", content=PICTURE, headers=OCTETS).status_code == 200
    assert metric(server.url, 'proscale_rejected_total{reason="too_many_bytes"}') >= 5


def test_all_bodies_together_are_bounded() -> None:
    engine = ThresholdPredictor()
    with serving(engine, max_upload_bytes=1000, max_buffered_bytes=1500) as server:
        address = httpx.URL(server.url)
        half = HEAD + b"content-length: 999\r\n\r\n" + b"x" * 900
        with socket.create_connection((address.host, address.port or 80)) as slow:
            slow.sendall(half)
            until(lambda: http.post(f"{server.url}/segment", content=b"x" * 900, headers=OCTETS).status_code == 429)
            response = http.post(f"{server.url}/segment", content=b"x" * 900, headers=OCTETS)
            assert response.headers["retry-after"] == "1"
        until(lambda: http.post(f"{server.url}/segment", content=b"x" * 900, headers=OCTETS).status_code == 422)


def test_a_slow_body_gets_408() -> None:
    with serving(ThresholdPredictor(), upload_timeout_s=0.2) as server:
        started = time.monotonic()
        answer = converse(server, HEAD + b"content-length: 999\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 30


async def test_work_ends_when_the_client_leaves() -> None:
    left, cancelled = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, object]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def work() -> int:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 1

    asyncio.get_running_loop().call_later(0.02, left.set)
    with pytest.raises(ClientGone):
        await unless_client_leaves(receive, work())
    assert cancelled.is_set()


async def test_work_that_ends_first_counts() -> None:
    async def never() -> dict[str, object]:
        await asyncio.sleep(30)
        return {}

    async def work() -> int:
        return 7

    async def failing() -> int:
        raise ZeroDivisionError

    assert await unless_client_leaves(never, work()) == 7
    with pytest.raises(ZeroDivisionError):
        await unless_client_leaves(never, failing())


def test_the_picture_of_a_client_that_left_is_never_computed() -> None:
    engine = ThresholdPredictor()
    with serving(engine) as server:
        engine.gate.clear()
        address = httpx.URL(server.url)
        head = f"POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {len(PICTURE)}\r\n\r\n".encode()
        with socket.create_connection((address.host, address.port or 80)) as first:
            first.sendall(head + PICTURE)
            until(lambda: engine.calls == 1)
            with socket.create_connection((address.host, address.port or 80)) as second:
                second.sendall(head + PICTURE)
                until(lambda: metric(server.url, "proscale_queue_depth") == 1)
            until(lambda: metric(server.url, "proscale_queue_depth") == 0)
            until(lambda: metric(server.url, 'proscale_requests_total{status="499",task="panoptic"}') == 1)
            assert server.pipeline.admission.pictures == 1
            engine.gate.set()
            assert b"200 OK" in first.recv(65536)
        assert engine.batches == [[(64, 96)]]
