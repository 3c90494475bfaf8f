"""Many clients at once, good and bad, patient and not: the server answers all of them and is as good as new afterwards."""

import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import pytest

from .pictures import blob, encoded, gradient, png_header
from .serving import http, metric, process, until

OCTETS = {"content-type": "application/octet-stream"}
NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
EXPECTED: list[tuple[bytes, str, set[int]]] = [
    (encoded(blob()), "", {200, 429}),
    (encoded(gradient(60, 40)), "?task=instance,semantic", {200, 429}),
    (encoded(NOISE, "JPEG"), "?task=semantic&max_segments=2", {200, 429}),
    (encoded(blob()), "?deadline_ms=1", {504, 429, 200}),
    (encoded(NOISE, "JPEG")[:-300], "", {422, 429}),
    (b"", "", {400, 429}),
    (b"text", "", {422, 429}),
    (png_header(20000, 20000), "", {413, 429}),
    (bytes(2_000_000), "", {413, 429}),
    (encoded(blob()), "?threshold=7", {422, 429}),
]
WANTED = {200, 400, 413, 422, 429}


@pytest.mark.slow
def test_a_crowd_of_clients_is_served_and_leaves_nothing_behind(small_checkpoint: Path) -> None:
    statuses: Counter[int] = Counter()
    wrong: list[object] = []
    seconds: dict[int, list[float]] = {200: [], 429: []}
    settings = {"PROSCALE_MAX_CONCURRENT_PICTURES": "4", "PROSCALE_MAX_UPLOAD_BYTES": "1000000", "PROSCALE_LOG_LEVEL": "warning"}
    with process("--checkpoint", str(small_checkpoint), "--threads", "1", **settings) as (url, started):
        begin = time.monotonic()

        def going_on() -> bool:
            """For a while, and until there was something of everything."""
            seconds = time.monotonic() - begin
            return seconds < 8 or (seconds < 120 and not statuses.keys() >= WANTED)

        def crowd(seed: int) -> None:
            rng = random.Random(seed)
            with httpx.Client(timeout=120) as client:
                while going_on():
                    content, query, allowed = rng.choice(EXPECTED)
                    begun = time.perf_counter()
                    response = client.post(f"{url}/segment{query}", content=content, headers=OCTETS)
                    statuses[response.status_code] += 1
                    if response.status_code not in allowed:
                        wrong.append((query, response.status_code, response.text))
                    if response.status_code in seconds:
                        seconds[response.status_code].append(time.perf_counter() - begun)
                    if response.status_code == 429 and not response.headers["retry-after"].isdecimal():
                        wrong.append("no Retry-After")

        def leavers(seed: int) -> None:
            address, rng = httpx.URL(url), random.Random(seed)
            body = encoded(blob())
            head = f"POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            while going_on():
                with socket.create_connection((address.host, address.port or 80)) as connection:
                    connection.sendall((head + body)[: rng.choice([10, len(head) + 5, len(head + body)])])
                    time.sleep(rng.random() * 0.02)

        def watcher() -> None:
            with httpx.Client(timeout=120) as client:
                while going_on():
                    paths = ("/health/live", "/health/ready", "/metrics")
                    wrong.extend(path for path in paths if client.get(f"{url}{path}").status_code != 200)
                    time.sleep(0.05)

        threads = [threading.Thread(target=crowd, args=(i,)) for i in range(10)]
        threads += [threading.Thread(target=leavers, args=(i,)) for i in range(2)] + [threading.Thread(target=watcher)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert not wrong, wrong[:5]
        assert statuses.keys() >= WANTED, statuses
        assert median(seconds[429]) < median(seconds[200]), "refusing takes longer than serving"
        assert started.poll() is None
        # Nothing is left over, and the next one is served as if nothing had been.
        until(lambda: metric(url, "proscale_queue_depth") == 0)
        assert metric(url, 'proscale_rejected_total{reason="internal"}') == 0
        assert metric(url, 'proscale_rejected_total{reason="engine_failure"}') == 0
        for _ in range(5):
            assert http.post(f"{url}/segment", content=encoded(blob()), headers=OCTETS, timeout=120).status_code == 200
        started.terminate()
        _, err = started.communicate(timeout=120)
        assert started.returncode == 0
        assert "Traceback" not in err, err[-3000:]
