"""`docker compose up` for real: build, start, segment, look at every metric, break the worker, change the model, stop."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.deploy.observability.queries import dashboard, dashboard_queries, recorded, triton_metrics

from proscale_service.client import Client

from .stack import ROOT, SERVICES, Stack, engine_missing, running, until

pytestmark = [pytest.mark.docker, pytest.mark.skipif(bool(engine_missing()), reason=engine_missing())]

NUCLEI = ROOT / "examples/nuclei.jpg"
GATEWAY_BYTES_OVER_BASE = 250_000_000
# Without a GPU, or while nothing goes wrong, these have nothing to show; that they parse and name real metrics is tested elsewhere.
MAY_BE_EMPTY = {"GPU utilization", "GPU memory", "GPU power", "Alerts that fire", "Rejected by reason"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Iterator[Stack]:
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(small_checkpoint, checkpoints / "small")
    for path in (checkpoints, *checkpoints.rglob("*")):  # the worker is another user
        path.chmod(0o755 if path.is_dir() else 0o644)
    with running(checkpoints) as stack:
        yield stack


def segment(stack: Stack, task: str = "panoptic") -> httpx.Response:
    return httpx.post(f"{stack.url}/segment?task={task}", content=NUCLEI.read_bytes(), headers={"content-type": "image/jpeg"}, timeout=60)


def test_a_real_picture_is_segmented(stack: Stack) -> None:
    with Client(stack.url) as client:
        answer = client.segment(NUCLEI, task="panoptic")
    labels = [segment.label for segment in answer.segments]
    assert labels.count("nucleus") > 20
    assert all(segment.mask.shape == (383, 512) and segment.mask.any() for segment in answer.segments)


def test_processes_have_no_rights_and_write_nowhere(stack: Stack) -> None:
    for service in SERVICES:
        status = dict(re.findall(r"^(\w+):\s*(.*)$", stack.inside(service, "cat", "/proc/1/status"), re.MULTILINE))
        assert status["Uid"].split()[0] != "0", service
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, service
        assert status["NoNewPrivs"] == "1", service
        assert " ro," in next(line for line in stack.inside(service, "cat", "/proc/mounts").splitlines() if line.split()[1] == "/"), service
        limits = stack.inspect(service)["HostConfig"]
        assert limits["Memory"] > 0, service
        assert limits["NanoCpus"] > 0, service
        assert limits["PidsLimit"] > 0, service


def test_the_gateway_is_small_and_has_no_torch(stack: Stack) -> None:
    image = stack.inspect("gateway")["Image"]
    layers = json.loads(stack.docker("image", "inspect", image))[0]
    base_id = re.search(r"PYTHON_IMAGE: \$\{PYTHON_IMAGE:-([^}]+)\}", (ROOT / "docker-compose.yml").read_text())
    assert base_id
    base = json.loads(stack.docker("image", "inspect", os.environ.get("PYTHON_IMAGE", base_id[1])))[0]
    over = layers["Size"] - base["Size"]
    print(f"gateway image: {over / 1e6:.0f} MB over its base")
    assert over < GATEWAY_BYTES_OVER_BASE
    code = "import importlib.util as u; print([n for n in ('torch', 'pip', 'setuptools', 'scipy') if u.find_spec(n)])"
    found = stack.inside("gateway", "python", "-c", code)
    assert "torch" not in found
    assert "scipy" not in found
    assert layers["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_worker_has_the_compiled_operator_and_no_way_out(stack: Stack) -> None:
    assert "compiled" in next(line for line in stack.inside("triton", "proscale", "doctor").splitlines() if "operator on the CPU" in line)
    networks = stack.inspect("triton")["NetworkSettings"]["Networks"]
    assert [json.loads(stack.docker("network", "inspect", name))[0]["Internal"] for name in networks] == [True]
    outside = (
        "import socket\n"
        "try: socket.create_connection(('pypi.org', 443), 5); print('reached')\n"
        "except OSError as error: print('not', error)\n"
    )
    # Where the machine has no internet this fails too, and the next line proves little.
    print("outside, from the gateway:", stack.inside("gateway", "python3", "-c", outside))
    assert stack.inside("triton", "python3", "-c", outside).startswith("not")
    assert stack.inspect("triton")["NetworkSettings"]["Ports"].get("8000/tcp") in (None, [])


def test_prometheus_scrapes_everybody_and_evaluates_every_rule(stack: Stack) -> None:
    until(lambda: {tuple(sorted((t["labels"]["job"], t["health"]) for t in stack.prometheus("targets")["activeTargets"]))}
          == {(("proscale-gateway", "up"), ("proscale-triton", "up"))}, 60, "both targets are up")  # fmt: skip

    def evaluated() -> bool:
        rules = [rule for group in stack.prometheus("rules")["groups"] for rule in group["rules"]]
        return all(rule["health"] == "ok" for rule in rules) and {r["name"] for r in rules if r["type"] == "recording"} == recorded()

    until(evaluated, 60, "all rules are healthy")


def test_every_panel_of_the_dashboard_shows_something(stack: Stack) -> None:
    # rate() needs two scrapes with growth between them, so work goes on while we look.
    until(lambda: bool(segment(stack).is_success and not empty_panels(stack)), 150, f"panels without data: {empty_panels(stack)}")
    titles = {panel["title"] for panel in dashboard()["panels"]}
    assert titles >= MAY_BE_EMPTY


def empty_panels(stack: Stack) -> list[str]:
    shown = {name: stack.query(expression) for name, expression in dashboard_queries().items()}
    numbers = {name: [float(series["value"][1]) for series in result] for name, result in shown.items()}
    return [
        name for name, values in numbers.items() if not any(value == value for value in values) and name.split(" / ")[0] not in MAY_BE_EMPTY
    ]


def test_triton_exports_what_the_dashboard_believes(stack: Stack) -> None:
    live = {name for name in stack.prometheus("label/__name__/values") if name.startswith(("nv_", "proscale_worker_"))}
    assert triton_metrics(gpu=False) <= live
    # Those of GPUs: the server's own libraries know the names.
    code = (
        "import pathlib, re, sys\n"
        "exe = next(p.parent for p in pathlib.Path('/proc').glob('[0-9]*/exe') if p.resolve().name == 'tritonserver')\n"
        "files = set(re.findall(r'/\\S*triton\\S*', (exe / 'maps').read_text()))\n"
        "data = b''.join(pathlib.Path(f).read_bytes() for f in files if pathlib.Path(f).is_file())\n"
        # Compilers build longer constants from pieces of 16 bytes.
        "print([n for n in sys.argv[1:] if n[:16].encode() not in data])\n"
    )
    unknown = stack.inside("triton", "python3", "-c", code, *sorted(triton_metrics() - triton_metrics(gpu=False)))
    assert unknown.strip() == "[]"


def recovers(stack: Stack, seconds: float) -> None:
    until(lambda: segment(stack).is_success, seconds, "the service answers again")
    until(lambda: httpx.get(f"{stack.url}/health/ready").is_success, 30, "the gateway is ready again")


def test_a_killed_worker_comes_back(stack: Stack) -> None:
    restarts = stack.inspect("triton")["RestartCount"]
    stack.kill_process("triton", "tritonserver")
    seen = set()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        answer = segment(stack)
        seen.add(answer.status_code)
        if answer.status_code == 503:
            assert "retry-after" in answer.headers
        if answer.is_success and 503 in seen:
            break
        assert httpx.get(f"{stack.url}/health/live").is_success
        time.sleep(0.3)
    assert seen == {200, 503}
    assert stack.inspect("triton")["RestartCount"] == restarts + 1
    recovers(stack, 60)


def test_a_killed_python_process_is_healed(stack: Stack) -> None:
    stack.kill_process("triton", "triton_python_backend_stub")
    recovers(stack, 90)
    assert stack.inspect("triton")["State"]["Running"]


def test_the_alert_for_a_dead_worker_fires(stack: Stack) -> None:
    stack.compose("stop", "triton")
    # Triton goes on counting a model whose Python process was killed, waits for it until --exit-timeout-secs and then answers 1.
    # Anything else, 137 above all, would mean that the engine had to kill it.
    assert stack.inspect("triton")["State"]["ExitCode"] in (0, 1)
    until(lambda: bool(stack.query('ALERTS{alertname="ProscaleWorkerDown"}')), 60, "the alert is pending or firing")
    assert httpx.get(f"{stack.url}/health/ready").status_code == 503
    stack.compose("start", "triton")
    recovers(stack, 90)


def test_a_checkpoint_of_ones_own_by_one_variable_and_settings_by_theirs(stack: Stack) -> None:
    variables = {"PROSCALE_CHECKPOINT": "/checkpoints/small", "PROSCALE_WARMUP": "64x96"}
    stack.compose("up", "-d", "--no-build", "--no-deps", "triton", **variables)
    until(lambda: "small random model" in segment(stack).text, 90, "the other model answers")
    given = dict(line.split("=", 1) for line in stack.inside("triton", "env").splitlines() if "=" in line)
    assert variables.items() <= given.items()
    assert "PROSCALE_PRECISION" not in given, "what is not set is not passed on"


def test_everything_stops_in_order(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("stop", timeout=120)
    taken = time.monotonic() - began
    for service in ("gateway", "triton"):
        state = stack.inspect(service)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), (service, state)
    print(f"stopped in {taken:.0f} s")
