"""Servers for tests: a real uvicorn on a free loopback port, in a thread or in a process of its own."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import uvicorn

from proscale.runtime import RuntimeConfig
from proscale_service.app import create_app
from proscale_service.engines.base import MakeEngine, Surroundings
from proscale_service.engines.in_process import BatchPredictor, InProcessEngine
from proscale_service.pipeline import Pipeline
from proscale_service.server import Server, bind, url_of
from proscale_service.settings import Settings

PATIENCE_S = 60.0
"""Machines that run tests are busy; how fast the server is, tests say themselves where it matters."""


class http:  # noqa: N801  (stands in for the module httpx)
    """httpx's functions with more patience."""

    post = staticmethod(partial(httpx.post, timeout=PATIENCE_S))
    get = staticmethod(partial(httpx.get, timeout=PATIENCE_S))
    delete = staticmethod(partial(httpx.delete, timeout=PATIENCE_S))


COMMAND = [sys.executable, "-W", "error", "-c", "from proscale_service.cli import serve; serve()"]


@dataclass
class Running:
    """A server in a thread of this process."""

    url: str
    server: Server
    pipeline: Pipeline
    thread: threading.Thread

    def stop(self) -> None:
        self.server.handle_exit(15, None)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "the server does not stop"


@contextmanager
def serving(engine: BatchPredictor | MakeEngine, *, wait: bool = True, **settings: Any) -> Iterator[Running]:
    """A server around a predictor, or around what makes its engine. `wait`: until it is ready."""
    loaded = threading.Event()
    make_engine = engine if callable(engine) else in_process(lambda runtime: engine)
    given = Settings(**({"warmup": "", "decode_threads": 1} | settings))
    app = create_app(given, make_engine=make_engine, on_ready=loaded.set)
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=20)
    server = Server(config, given, lambda: getattr(app.state, "lifecycle", None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
    thread.start()
    try:
        until(lambda: server.started)
        if wait:
            assert loaded.wait(PATIENCE_S)
        running = Running(url_of(listener), server, app.state.pipeline, thread)
        yield running
    finally:
        server.handle_exit(15, None)
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server does not stop"


def in_process(load: Callable[[RuntimeConfig], BatchPredictor]) -> MakeEngine:
    """What makes the engine around a predictor, loaded when the server starts."""

    def make(around: Surroundings) -> InProcessEngine:
        return InProcessEngine(around, load)

    return make


@contextmanager
def process(*arguments: str, first: str = "", scheme: str = "http", **environment: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`proscale serve` as users start it, on a free port: its URL and the process. Args: first: Python run before; scheme: of the URL."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PROSCALE_")} | {"OMP_NUM_THREADS": "1"} | environment
    command = [*COMMAND[:-1], f"{first}\n{COMMAND[-1]}", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as started:
        try:
            assert started.stdout is not None
            assert started.stderr is not None
            line = started.stdout.readline()
            if line.startswith("{"):  # with logs in JSON
                line = f"Serving on {json.loads(line)['url']}\n"
            assert line.startswith(f"Serving on {scheme}://127.0.0.1:"), line + started.stderr.read()
            yield line.split()[-1], started
        finally:
            if started.poll() is None:
                started.kill()
            started.communicate()


def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait for a condition; fail when it does not come true."""
    end, pause = time.monotonic() + seconds, 0.005
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.05)  # what takes long is not asked for all the time


def metric(url: str, sample: str) -> float:
    """One sample of /metrics, such as `proscale_engine_up` or `proscale_rejected_total{reason="draining"}`; 0 where there is none."""
    for line in http.get(f"{url}/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if name == sample:
            return float(value)
    return 0.0
