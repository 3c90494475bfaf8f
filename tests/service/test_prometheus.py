"""The metrics as Prometheus itself sees them."""

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from .pictures import blob, encoded
from .serving import Running


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def used(server: Running) -> str:
    """The URL of a server that has answered a request."""
    httpx.post(f"{server.url}/segment", content=encoded(blob()), headers={"content-type": "image/png"}).raise_for_status()
    return server.url


def test_promtool_reports_nothing(used: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    metrics = httpx.get(f"{used}/metrics").content
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stdout + done.stderr


@pytest.mark.slow
def test_a_real_prometheus_scrapes_and_answers(used: str, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus (Debian: prometheus)")
    scrape = {"job_name": "proscale", "scrape_interval": "1s", "static_configs": [{"targets": [used.removeprefix("http://")]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))  # JSON is YAML
    port = free_port()
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as process:
        try:
            values = {}
            for name, query in {
                "requests": 'sum(proscale_requests_total{task="panoptic",status="200"})',
                "saved": "proscale_flops_saved_total / ignoring(encoder) proscale_baseline_flops_total",
                "stages": "count(proscale_stage_duration_seconds_count)",
                "up": "proscale_engine_up",
            }.items():
                values[name] = ask(port, query)
        finally:
            process.terminate()
    assert values["requests"] >= 1
    assert 0 < values["saved"] < 1
    assert values["stages"] == 6
    assert values["up"] == 1


def ask(port: int, query: str) -> float:
    """The one value of a query, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            result = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}).json()["data"]["result"]
        except (httpx.TransportError, ValueError):  # not listening yet, or not ready
            result = []
        if result:
            return float(result[0]["value"][1])
        time.sleep(0.3)
    pytest.fail(f"Prometheus has no value for {query}")
