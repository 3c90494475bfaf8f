"""Faults behind a gateway: the worker's process, Triton itself and the network between, killed, stopped, cut, while clients ask."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as grpc
from tests.deploy.triton.server import REPOSITORY, TritonServer, needs_triton

from ..pictures import blob, encoded
from ..serving import http, process, until
from . import free_port
from .conftest import Tell
from .load import CLOSED, CUT_SHORT, REFUSED, Load
from .proxy import Proxy

pytestmark = [pytest.mark.slow, needs_triton]
PICTURE = encoded(blob())
NO_TORCH = "import sys; sys.modules['torch'] = None  # importing it fails from here on"


@dataclass
class Stage:
    """A Triton server with two models, a proxy before it, and a gateway before that."""

    triton: TritonServer
    proxy: Proxy
    url: str
    admin: str

    def ready(self) -> bool:
        return http.get(f"{self.url}/health/ready").status_code == 200


@contextmanager
def gateway(port: int, **settings: str) -> Iterator[str]:
    environment = {
        "PROSCALE_ENGINE": "triton",
        "PROSCALE_TRITON_URL": f"127.0.0.1:{port}",
        "PROSCALE_TRITON_CHECK_S": "1",  # a third of the default, and so are the seconds until a hang is found
        "PROSCALE_LOG_LEVEL": "error",
    } | settings
    with process(first=NO_TORCH, **environment) as (url, _):
        yield url


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("chaos")
    repository = folder / "models"
    for name in ("proscale", "other"):
        shutil.copytree(REPOSITORY / "proscale", repository / name)
        config = repository / name / "config.pbtxt"
        config.write_text(config.read_text().replace('name: "proscale"', f'name: "{name}"'))
    triton = TritonServer(folder, {"PROSCALE_CHECKPOINT": str(small_checkpoint), "PROSCALE_THREADS": "1"}, repository)
    triton.start()
    port = free_port()
    settings = {"PROSCALE_MODELS": "first=proscale", "PROSCALE_ADMIN_PORT": str(port)}
    with ExitStack() as stack:
        stack.callback(triton.kill)
        stack.enter_context(triton.kept_running())
        proxy = stack.enter_context(Proxy(triton.grpc_port))
        url = stack.enter_context(gateway(proxy.port, **settings))
        made = Stage(triton, proxy, url, f"http://127.0.0.1:{port}/admin/models")
        until(made.ready)
        yield made


def test_a_worker_process_that_is_killed_is_replaced(stage: Stage, tell: Tell) -> None:
    with Load(stage.url, PICTURE) as load:
        load.wait_for(20)
        killed = time.monotonic()
        for pid in stage.triton.backend_pids():
            os.kill(pid, signal.SIGKILL)
        tell("from the kill to masks", load.recovered_after(killed))
        load.wait_for(20)
    load.check(503, 429)


def test_a_worker_process_that_hangs_is_replaced(stage: Stage, tell: Tell) -> None:
    (hanging,) = stage.triton.backend_pids()
    with Load(stage.url, PICTURE, query="?deadline_ms=3000") as load:
        load.wait_for(10)
        stopped = time.monotonic()
        os.kill(hanging, signal.SIGSTOP)
        try:
            tell("from the stop to masks", load.recovered_after(stopped, 120))
            load.wait_for(10)
        finally:
            with suppress(ProcessLookupError):  # it was replaced, or is to go on
                os.kill(hanging, signal.SIGKILL)
        load.wait_for(10)
    load.check(503, 504, 429)


def test_connections_to_triton_that_are_cut_and_delayed(stage: Stage, tell: Tell) -> None:
    with Load(stage.url, PICTURE) as load:
        load.wait_for(10)
        stage.proxy.delay_s = 0.03
        load.wait_for(10)
        cut = time.monotonic()
        assert stage.proxy.cut()
        stage.proxy.delay_s = 0.0
        tell("from the cut to masks", load.recovered_after(cut))
        load.wait_for(10)
    load.check(503, 429)


def test_another_model_is_loaded_under_load_and_takes_over(stage: Stage, tell: Tell) -> None:
    # Of a model that nobody loaded the gateway knows nothing.
    refused = httpx.put(f"{stage.admin}/first", json={"source": "other"}, timeout=60)
    assert (refused.status_code, "other" in refused.json()["detail"]) == (422, True)
    with grpc.InferenceServerClient(stage.triton.url) as client, Load(stage.url, PICTURE) as load:
        load.wait_for(10)
        begun = time.monotonic()
        client.load_model("other")
        assert httpx.put(f"{stage.admin}/second", json={"source": "other"}, timeout=60).status_code == 200
        assert httpx.put(f"{stage.admin}/first", json={"source": "other"}, timeout=60).status_code == 200
        tell("to load and to replace", time.monotonic() - begun)
        load.wait_for(10)
        both = http.get(f"{stage.url}/models").json()["models"]
        assert [each["name"] for each in both] == ["first", "second"]
        octets = {"content-type": "application/octet-stream"}
        answer = http.post(f"{stage.url}/segment?model=second", content=PICTURE, headers=octets)
        assert answer.json()["model"]["name"] == "second"
        assert httpx.put(f"{stage.admin}/first", json={"source": "proscale"}, timeout=60).status_code == 200
        assert httpx.delete(f"{stage.admin}/second", timeout=60).status_code == 204
        load.wait_for(10)
    load.check()


def test_a_triton_that_is_killed_and_started_again(stage: Stage, tell: Tell) -> None:
    with Load(stage.url, PICTURE) as load:
        load.wait_for(10)
        killed = time.monotonic()
        stage.triton.kill()
        until(lambda: not stage.ready())
        tell("until it is known", time.monotonic() - killed)
        stage.triton.start()
        started = time.monotonic()
        tell("from Triton's being ready to masks", load.recovered_after(started))
        load.wait_for(10)
    load.check(503, 429)


def test_a_triton_that_aborts_and_is_started_again_by_its_keeper(stage: Stage, tell: Tell) -> None:
    with Load(stage.url, PICTURE) as load:
        load.wait_for(10)
        stage.triton.abort()
        until(lambda: not stage.ready())
        tell("from its being known to masks", load.recovered_after(time.monotonic()))
        load.wait_for(10)
    load.check(503, 429)


def test_a_triton_that_hangs_and_goes_on(stage: Stage, tell: Tell) -> None:
    with Load(stage.url, PICTURE, query="?deadline_ms=3000") as load:
        load.wait_for(10)
        stage.triton.hang()
        until(lambda: load.counts[504] + load.counts[503] >= 4)
        resumed = time.monotonic()
        stage.triton.resume()
        tell("from going on to masks", load.recovered_after(resumed))
        load.wait_for(10)
    load.check(503, 504, 429)


def test_a_gateway_that_is_killed_leaves_the_others_whole(stage: Stage, tell: Tell) -> None:
    environment = {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": stage.triton.url, "PROSCALE_LOG_LEVEL": "error"}
    with process(first=NO_TORCH, **environment) as (url, doomed), Load(stage.url, PICTURE) as kept, Load(url, PICTURE) as load:
        load.wait_for(10)
        killed = time.monotonic()
        doomed.kill()
        tell("from the kill to another gateway's masks", kept.recovered_after(killed))
        kept.wait_for(20)
    kept.check()
    load.check(CLOSED, CUT_SHORT, REFUSED)
