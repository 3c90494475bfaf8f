"""The worker's health check: what it makes of a worker that computes, is busy, dead, being loaded, or full of leftovers."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proscale import wire
from proscale.worker_probe import _CANARY, MOST_LEFTOVERS, Look, Memory, judge, look

PATIENCE, LOADING = 120.0, 600.0


class Triton(ThreadingHTTPServer):
    """Stands for Triton's HTTP and metrics services; tests/deploy asks a real one."""

    def __init__(self) -> None:
        self.status, self.text, self.delay, self.pictures, self.state = 200, "{}", 0.0, 0, "READY"
        self.asked: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Triton

    def do_GET(self) -> None:
        self._answer(200, f'# TYPE x counter\nproscale_worker_pictures_total{{model="proscale"}} {self.server.pictures}\n')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v2/repository/index":
            self._answer(200, json.dumps([{"name": "proscale", "state": self.server.state}]))
            return
        assert self.path == "/v2/models/proscale/infer"
        self.server.asked.append(body)
        time.sleep(self.server.delay)
        self._answer(self.server.status, self.server.text)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[Triton]:
    server = Triton()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def seen(triton: Triton, before: Memory = Memory()) -> Look:  # noqa: B008
    return look(triton.url, f"{triton.url}/metrics", "proscale", before, timeout_s=0.5)


def test_a_worker_that_answers_is_healthy(triton: Triton) -> None:
    assert seen(triton).well
    (asked,) = triton.asked
    assert asked == _CANARY
    assert [(each["name"], each["datatype"]) for each in asked["inputs"]] == [
        (wire.PICTURE, "UINT8"),
        (wire.SIZES, "INT32"),
        (wire.OPTIONS, "BYTES"),
    ]
    assert asked["inputs"][2]["data"] == [wire.DESCRIBE]


def test_a_busy_worker_is_healthy_and_not_probed(triton: Triton) -> None:
    triton.delay, triton.pictures = 1.0, 5
    first = seen(triton)
    assert (first.well, first.progress) == (False, 5.0)
    triton.pictures = 6
    assert seen(triton, Memory(progress=first.progress)).well
    assert len(triton.asked) == 1


def test_a_dead_process_says_why(triton: Triton) -> None:
    triton.status, triton.text = 500, '{"error": "Stub process is not healthy."}'
    found = seen(triton)
    assert (found.well, found.loading) == (False, False)
    assert "not healthy" in found.reason
    triton.state = "LOADING"
    assert seen(triton).loading


def test_an_unreachable_worker_is_unhealthy() -> None:
    found = look("http://127.0.0.1:1", "http://127.0.0.1:1/metrics", "proscale", Memory(), timeout_s=0.5)
    assert not found.well
    assert "no answer" in found.reason


def test_gateways_get_time_to_heal_and_loading_gets_longer() -> None:
    dead, loading = Look(False, "dead"), Look(False, "not ready", loading=True)
    live, reason, memory = judge(dead, Memory(), 1000.0, PATIENCE, LOADING)
    assert (live, memory.unwell_since) == (True, 1000.0)
    assert "unwell for 0 s: dead" in reason
    assert judge(dead, memory, 1119.0, PATIENCE, LOADING)[0]
    assert not judge(dead, memory, 1120.0, PATIENCE, LOADING)[0]
    assert judge(loading, memory, 1599.0, PATIENCE, LOADING)[0]
    assert not judge(loading, memory, 1600.0, PATIENCE, LOADING)[0]
    assert judge(Look(True, "it answers"), memory, 1119.0, PATIENCE, LOADING)[2].unwell_since is None


def test_too_many_leftovers_ask_for_a_new_container() -> None:
    assert judge(Look(True, "it answers", leftovers=MOST_LEFTOVERS), Memory(), 0.0, PATIENCE, LOADING)[0]
    assert not judge(Look(True, "it answers", leftovers=MOST_LEFTOVERS + 1), Memory(), 0.0, PATIENCE, LOADING)[0]


@pytest.mark.parametrize(("what", "patience", "status"), [("live", "120", 0), ("ready", "120", 1), ("live", "0", 1)])
def test_the_command_exits_as_health_checks_want_it(triton: Triton, tmp_path: Path, what: str, patience: str, status: int) -> None:
    triton.status, triton.text = 400, '{"error": "Request for unknown model"}'
    options = ["--url", triton.url, "--metrics-url", f"{triton.url}/metrics", "--memory", str(tmp_path / "m"), "--patience", patience]
    command = [sys.executable, "-m", "proscale.worker_probe", what, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert "unknown model" in done.stdout
    (tmp_path / f"m-{what}.json").write_text("broken")  # by a probe that was killed while it wrote
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == status
