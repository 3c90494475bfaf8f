"""Faults of the server itself and of its clients: killed, stopped, told to end, swapped, on a full disk, slow and idle connections."""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from ..pictures import blob, encoded
from ..serving import COMMAND, http, metric, until
from . import free_port
from .conftest import Tell
from .load import CLOSED, CUT_SHORT, REFUSED, Load, ask, judge
from .proxy import Proxy

pytestmark = pytest.mark.slow
PICTURE = encoded(blob())


@contextmanager
def serving(checkpoint: Path, port: int, **settings: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A server with the small model on this port."""
    given = {"PROSCALE_PORT": str(port), "PROSCALE_THREADS": "1", "PROSCALE_LOG_LEVEL": "error", "PROSCALE_CHECKPOINT": str(checkpoint)}
    env = (
        {name: value for name, value in os.environ.items() if not name.startswith("PROSCALE_")}
        | {"OMP_NUM_THREADS": "1"}
        | given
        | settings
    )
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            assert line.startswith("Serving"), line
            yield line.split()[-1], started
        finally:
            if started.poll() is None:
                started.kill()
            started.communicate()


@dataclass
class Shared:
    """A server that survives the tests of this file."""

    url: str
    process: "subprocess.Popen[str]"
    admin: str

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    def held(self) -> tuple[int, int]:
        """Descriptors and threads of its process."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd")), len(os.listdir(f"/proc/{self.process.pid}/task"))

    def head(self, length: int) -> bytes:
        """Of a request whose body has so many bytes."""
        return (
            f"POST /segment?model=first HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/png\r\nx-request-id: x\r\n"
            f"content-length: {length}\r\n\r\n"
        ).encode()


@pytest.fixture(scope="module")
def shared(small_checkpoint: Path) -> Iterator[Shared]:
    """With two models and an admin port; bodies must come within two seconds."""
    port = free_port()
    settings = {
        "PROSCALE_CHECKPOINT": "",
        "PROSCALE_MODELS": f"first={small_checkpoint},second=",
        "PROSCALE_ADMIN_PORT": str(port),
        "PROSCALE_UPLOAD_TIMEOUT_S": "2",
    }
    with serving(small_checkpoint, 0, **settings) as (url, started):
        with Load(url, PICTURE, query="?model=first") as load:
            load.wait_for(10)
        yield Shared(url, started, f"http://127.0.0.1:{port}/admin/models")
        assert started.poll() is None, "it ended"
        assert metric(url, 'proscale_rejected_total{reason="internal"}') == 0


def test_clients_survive_a_killed_a_restarted_and_a_stopped_server(small_checkpoint: Path, tell: Tell) -> None:
    port = free_port()
    with ExitStack() as stack:
        url, started = stack.enter_context(serving(small_checkpoint, port))
        with Load(url, PICTURE) as load:
            load.wait_for(20)
            killed = time.monotonic()
            started.kill()
            started.wait()
            _, again = stack.enter_context(serving(small_checkpoint, port))
            tell("from the kill to masks", load.recovered_after(killed))
            load.wait_for(20)
        load.check(CLOSED, CUT_SHORT, REFUSED, 503)
        assert load.counts[CLOSED] + load.counts[CUT_SHORT] <= 4, "more than were on their way"

        with Load(url, PICTURE, clients=8) as load:
            load.wait_for(20)
            told = time.monotonic()
            again.terminate()
            assert again.wait(60) == 0
            tell("from SIGTERM to the end", time.monotonic() - told)
        # Accepted by the system, not yet by the server: closed without an answer, and safe to send elsewhere.
        load.check(REFUSED, CLOSED, 503)
        assert load.counts[CLOSED] <= 8


def test_a_server_that_is_stopped_for_a_while_loses_nothing(shared: Shared, tell: Tell) -> None:
    with Load(shared.url, PICTURE, query="?model=first") as load:
        load.wait_for(10)
        shared.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        resumed = time.monotonic()
        shared.process.send_signal(signal.SIGCONT)
        tell("from going on to masks", load.recovered_after(resumed))
        load.wait_for(10)
    load.check(429)  # the pace of the moment looks slow
    assert http.get(f"{shared.url}/health/ready").status_code == 200


def test_a_hot_swap_under_load_fails_no_request(shared: Shared, small_checkpoint: Path, tell: Tell) -> None:
    with Load(shared.url, PICTURE, query="?model=first") as load:
        load.wait_for(10)
        for source in ("", str(small_checkpoint)):
            begun = time.monotonic()
            changed = httpx.put(f"{shared.admin}/first", json={"source": source}, timeout=60)
            assert (changed.status_code, changed.json()["state"]) == (200, "ready"), changed.text
            tell("to replace a model", time.monotonic() - begun)
            load.wait_for(5)
        assert httpx.delete(f"{shared.admin}/second", timeout=60).status_code == 204
        load.wait_for(5)
    load.check()
    assert http.get(f"{shared.url}/admin/models").status_code == 404, "only at its own port"


def test_a_slow_reader_delays_no_other_client(shared: Shared) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", shared.port))
        slow.sendall(shared.head(len(PICTURE)) + PICTURE)
        received = b""
        with Load(shared.url, PICTURE, query="?model=first") as load:
            for _ in range(3):
                received += slow.recv(1)
                time.sleep(0.5)
            load.wait_for(10)
        load.check()
        while chunk := slow.recv(65536):
            received += chunk
    assert judge(received, "x") == 200


def test_a_slow_sender_gets_408_and_delays_no_other_client(shared: Shared) -> None:
    with socket.create_connection(("127.0.0.1", shared.port)) as slow, Load(shared.url, PICTURE, query="?model=first") as load:
        slow.sendall(shared.head(len(PICTURE)))
        received = b""
        slow.settimeout(0.5)
        for byte in PICTURE[:20]:
            slow.sendall(bytes([byte]))
            try:
                received = slow.recv(65536)
                break
            except TimeoutError:
                continue
        load.wait_for(10)
    load.check()
    assert received.split()[1] == b"408"


def test_thousands_of_idle_connections_delay_no_client(shared: Shared, tell: Tell) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server_soft = resource.prlimit(shared.process.pid, resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    count = min(10_000, min(hard, 20_000) - 500, server_soft - 200)
    before = shared.held()[0]
    begun = time.monotonic()
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", shared.port), timeout=30)) for _ in range(count)]
        for each in idle[::2]:
            each.sendall(b"POST /segment HTTP/1.1\r\nhost: x\r\n")  # half of them with half a head
        tell(f"to open {count} connections", time.monotonic() - begun)
        with Load(shared.url, PICTURE, query="?model=first") as load:
            load.wait_for(20)
        load.check()
        assert http.get(f"{shared.url}/health/live").status_code == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: shared.held()[0] <= before + 1)


def test_connections_that_are_cut_and_delayed(shared: Shared, tell: Tell) -> None:
    with Proxy(shared.port) as proxy, Load(f"http://127.0.0.1:{proxy.port}", PICTURE, query="?model=first") as load:
        load.wait_for(10)
        proxy.delay_s = 0.05
        load.wait_for(10)
        proxy.flowing.clear()
        time.sleep(0.3)
        cut = time.monotonic()
        assert proxy.cut()
        proxy.flowing.set()
        proxy.delay_s = 0.0
        tell("from the cut to masks", load.recovered_after(cut))
        load.wait_for(10)
    load.check(CLOSED, CUT_SHORT)
    assert load.counts[CLOSED] + load.counts[CUT_SHORT] <= 4
    until(lambda: metric(shared.url, "proscale_queue_depth") == 0)


def test_a_full_disk_stops_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {"PROSCALE_PORT": "0", "PROSCALE_CHECKPOINT": str(small_checkpoint), "PROSCALE_THREADS": "1", "TMPDIR": str(tmp_path)}
    with log.open("w") as full:
        started = subprocess.Popen(
            COMMAND,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            env=os.environ | settings | {"PROSCALE_LOG_LEVEL": "debug"},
            # No file may grow beyond this, as on a disk that has no room for more; the log reaches it at once.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        )
    with started:
        try:
            assert started.stdout is not None
            url = started.stdout.readline().split()[-1]
            with Load(url, PICTURE) as load:
                load.wait_for(40)
            load.check()
            formats = http.post(f"{url}/segment?format=masks&format=geojson", content=PICTURE, headers={"content-type": "image/png"})
            assert (formats.status_code, formats.headers["content-type"]) == (200, "application/zip")
            assert http.post(f"{url}/segment", files={"image": PICTURE}).status_code == 200
            started.terminate()
            assert started.wait(60) == 0
        finally:
            started.kill()
    assert log.stat().st_size <= 2000


def test_descriptors_and_threads_are_given_back(shared: Shared) -> None:
    clients, before = 16, shared.held()
    for _ in range(2):
        with Load(shared.url, PICTURE, query="?model=first", clients=clients) as load:
            load.wait_for(60)
        until(lambda: metric(shared.url, "proscale_queue_depth") == 0)
        assert ask(shared.url, PICTURE, "?model=first").what == 200
    until(lambda: shared.held()[0] <= before[0] + 1)
    # Reading threads are made as they are needed, and stay: one per client at most, however many requests there were.
    assert shared.held()[1] <= before[1] + clients + 1
