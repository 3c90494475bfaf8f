"""What a dead or hung model process costs on a real server: who heals it, what stays behind, how the logs are joined."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.deploy.triton.server import REST_S, TritonServer, needs_triton
from tests.service.pictures import encoded
from tests.service.serving import metric, process, until

from proscale import leftovers
from proscale.checkpoints.model_folder import DEFAULT_FOLDER

pytestmark = [pytest.mark.slow, needs_triton]
OCTETS = {"content-type": "application/octet-stream"}
CHECK_S = "1"
"""A third of the default, and so are the seconds until a hang is found."""
HANG_FOUND = 4
"""Within so many times `PROSCALE_TRITON_CHECK_S`: docs/triton.md, and docs/operations.md in seconds of the default."""


def gateway(stack: ExitStack, *servers: TritonServer, **settings: str) -> str:
    """A gateway without torch in front of servers; its URL."""
    urls = ",".join(server.url for server in servers)
    environment = {
        "PROSCALE_ENGINE": "triton",
        "PROSCALE_TRITON_URL": urls,
        "PROSCALE_TRITON_CHECK_S": CHECK_S,
        "PROSCALE_LOG_LEVEL": "error",
    } | settings
    return stack.enter_context(process(**environment))[0]


def ready(url: str) -> bool:
    return httpx.get(f"{url}/health/ready", timeout=30).status_code == 200


def ask(url: str, content: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/segment", content=content, headers=OCTETS | headers, timeout=60)


def stop_processes(server: TritonServer, how: signal.Signals) -> None:
    time.sleep(REST_S)
    for pid in server.backend_pids():
        os.kill(pid, how)


@pytest.fixture(scope="module")
def own_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A model folder that may be moved away."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    folder.mkdir()
    for path in small_checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, own_checkpoint: Path) -> Iterator[TritonServer]:
    environment = {"PROSCALE_CHECKPOINT": str(own_checkpoint), "PROSCALE_THREADS": "1", "PROSCALE_LOG_FORMAT": "json"}
    server = TritonServer(tmp_path_factory.mktemp("triton"), environment)
    server.start()
    yield server
    server.kill()


def test_an_outage_ends_when_its_cause_does_whoever_began_to_heal(server: TritonServer, own_checkpoint: Path, picture: np.ndarray) -> None:
    with ExitStack() as first:
        url = gateway(first, server)
        assert ready(url)
        away = own_checkpoint.rename(own_checkpoint.with_name("away"))
        stop_processes(server, signal.SIGKILL)
        until(lambda: metric(url, 'proscale_heals_total{model="proscale",outcome="failed"}') >= 1)
        assert not ready(url)
    with ExitStack() as second:  # another gateway, that knows nothing
        url = gateway(second, server)
        until(lambda: metric(url, 'proscale_heals_total{model="proscale",outcome="failed"}') >= 1)
        assert metric(url, 'proscale_servers_up{model="proscale"}') == 0
        away.rename(own_checkpoint)
        until(lambda: ready(url))
        assert ask(url, encoded(picture)).status_code == 200
        assert metric(url, 'proscale_heals_total{model="proscale",outcome="loaded"}') == 1
        assert metric(url, 'proscale_servers_up{model="proscale"}') == 1


def test_two_gateways_heal_once_and_a_hung_process_and_shared_memory_are_removed(server: TritonServer, picture: np.ndarray) -> None:
    with ExitStack() as stack:
        urls = [gateway(stack, server) for _ in range(2)]
        until(lambda: len(server.shared_memory()) == 1)
        (hung,) = server.backend_pids()
        counted = leftovers_counted(server)
        before = {path.name for path in server.shared_memory()}
        stop_processes(server, signal.SIGSTOP)  # it keeps its memory, and Triton does not end it
        until(lambda: not any(map(ready, urls)))
        until(lambda: all(map(ready, urls)))
        assert all(ask(url, encoded(picture)).status_code == 200 for url in urls)
        generations = sum(metric(url, 'proscale_heals_total{model="proscale",outcome="loaded"}') for url in urls)
        assert 1 <= generations <= 2
        until(lambda: hung not in server.backend_pids())
        assert len(server.backend_pids()) == 1
        until(lambda: len(server.shared_memory()) == 1, leftovers.INTERVAL_S * 5)
        assert not before & {path.name for path in server.shared_memory()}
        until(lambda: leftovers_counted(server) == {kind: number + 1 for kind, number in counted.items()})
        assert all(ask(url, encoded(picture)).status_code == 200 for url in urls)


def leftovers_counted(server: TritonServer) -> dict[str, float]:
    name = 'proscale_worker_leftovers_total{kind="%s",model="proscale",version="1"}'
    return {kind: server.metrics().get(name % kind, 0.0) for kind in leftovers.KINDS}


def test_a_server_that_hangs_is_found_within_the_promised_time(server: TritonServer) -> None:
    with ExitStack() as stack:
        check_s = 2.0
        url = gateway(stack, server, PROSCALE_TRITON_CHECK_S=str(check_s))
        assert ready(url)
        server.hang()
        began = time.monotonic()
        try:
            until(lambda: not ready(url))
            took = time.monotonic() - began
            print(f"a hang was found after {took / check_s:.2f} times the seconds of a check")
            assert took < HANG_FOUND * check_s
        finally:
            server.resume()
        until(lambda: ready(url))


def test_one_id_leads_through_both_logs_which_are_json_throughout(server: TritonServer, picture: np.ndarray) -> None:
    with ExitStack() as stack:
        url = gateway(stack, server)
        assert ask(url, encoded(picture), **{"x-request-id": "from-a-client-1"}).headers["x-request-id"] == "from-a-client-1"
        refused = httpx.post(f"{url}/segment?labels=unicorn", content=encoded(picture), headers=OCTETS, timeout=60)
        assert refused.status_code == 422
        made = ask(url, encoded(picture)).headers["x-request-id"]

    def records() -> list[dict[str, object]]:
        return [json.loads(line) for line in server.log.read_text().splitlines()]

    def lines(request_id: str) -> list[dict[str, object]]:
        return [record for record in records() if record.get("id") == request_id]

    until(lambda: bool(lines(made)))
    for request_id in ("from-a-client-1", made):
        (line,) = lines(request_id)
        assert (line["message"], line["status"], line["source"], line["model"]) == ("picture", "ok", "worker", "proscale")
    assert {record["source"] for record in records()} == {"triton", "worker"}
    assert all(record.keys() >= {"time", "level", "message"} for record in records())
    assert any(record.get("at", "").startswith("grpc_server.cc") for record in records())  # type: ignore[attr-defined]


def test_an_operator_swaps_the_checkpoint_from_inside_the_container(
    server: TritonServer, own_checkpoint: Path, picture: np.ndarray
) -> None:
    def swap(folder: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proscale.worker_swap", folder, "--url", f"http://127.0.0.1:{server.http_port}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def name(url: str) -> str:
        answer = ask(url, encoded(picture))
        assert answer.status_code == 200
        return str(answer.json()["model"]["name"])

    with ExitStack() as stack:
        url = gateway(stack, server)
        old = name(url)
        refused = swap("/nowhere")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "the old model goes on" in refused.stderr
        assert "no model folder at /nowhere" in refused.stderr
        assert name(url) == old
        assert swap(str(DEFAULT_FOLDER)).returncode == 0
        assert name(url) != old
        # A heal keeps it.
        stop_processes(server, signal.SIGKILL)
        until(lambda: not ready(url))
        until(lambda: ready(url))
        assert name(url) != old
        assert swap("").returncode == 0
        assert name(url) == old


def test_the_liveness_probe_knows_the_model(server: TritonServer, tmp_path: Path) -> None:
    def probe(what: str, *options: str) -> subprocess.CompletedProcess[str]:
        urls = ["--url", f"http://127.0.0.1:{server.http_port}", "--metrics-url", f"http://127.0.0.1:{server.metrics_port}/metrics"]
        command = [sys.executable, "-m", "proscale.worker_probe", what, *urls, "--memory", str(tmp_path / "probe"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert [probe(what).returncode for what in ("ready", "live")] == [0, 0]
    stop_processes(server, signal.SIGKILL)
    assert server.http_ok("/v2/health/live")  # so much for Triton's own word
    assert server.http_ok("/v2/models/proscale/ready")
    dead = probe("ready")
    assert dead.returncode == 1
    assert "not healthy" in dead.stdout
    assert probe("live").returncode == 0  # gateways have two minutes
    assert probe("live", "--patience", "0").returncode == 1
    with ExitStack() as stack:
        url = gateway(stack, server)
        until(lambda: ready(url))
    assert [probe(what).returncode for what in ("ready", "live")] == [0, 0]
