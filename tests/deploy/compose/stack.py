"""The compose project as tests use it: built, started on free ports under a name of its own, taken down with its volumes."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
SERVICES = ("gateway", "triton", "prometheus")
"""Grafana has nothing that could be asked without its image; its dashboard's expressions are."""


def engine_missing() -> str:
    """Why there are no containers; empty if there are."""
    if os.environ.get("COMPOSE_TEST") != "1":
        return "takes minutes; `make compose-test` runs it"
    if shutil.which("docker") is None:
        return "needs docker"
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"needs a running Docker engine: {done.stderr.strip()}"


def until(wanted: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something; transport errors mean not yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if wanted():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclass
class Stack:
    """A running project."""

    environment: dict[str, str]

    @property
    def url(self) -> str:
        """The gateway."""
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    def compose(self, *arguments: str, timeout: float = 900, **variables: str) -> str:
        """`docker compose ...`; fails with its output."""
        return self._run(["docker", "compose", *arguments], timeout, variables)

    def docker(self, *arguments: str, timeout: float = 120) -> str:
        """`docker ...`; fails with its output."""
        return self._run(["docker", *arguments], timeout, {})

    def _run(self, command: list[str], timeout: float, variables: dict[str, str]) -> str:
        environment = os.environ | self.environment | variables
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def container(self, service: str) -> str:
        """Id of a service's container, running or not."""
        name = self.environment["COMPOSE_PROJECT_NAME"]
        labels = (f"com.docker.compose.project={name}", f"com.docker.compose.service={service}")
        return self.docker("ps", "-aq", *(f"--filter=label={label}" for label in labels)).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        loaded: dict[str, Any] = json.loads(self.docker("inspect", self.container(service)))[0]
        return loaded

    def inside(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return self.docker("exec", self.container(service), *command)

    def healthy(self, service: str) -> bool:
        """Whether a service's health check passes."""
        state = self.inspect(service)["State"]
        return bool(state["Running"] and state.get("Health", {}).get("Status") == "healthy")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask Prometheus; fails when it does not accept the expression."""
        url = f"http://127.0.0.1:{self.environment['PROMETHEUS_PORT']}/api/v1/query"
        answer = httpx.get(url, params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", (expression, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def prometheus(self, path: str) -> Any:
        """`data` of Prometheus' API."""
        return httpx.get(f"http://127.0.0.1:{self.environment['PROMETHEUS_PORT']}/api/v1/{path}", timeout=30).json()["data"]

    def kill_process(self, service: str, needle: str) -> None:
        """kill -9 the processes of a container whose command line contains a text, as the kernel does when memory is short."""
        code = (
            "import os, pathlib, signal\n"
            "found = 0\n"
            "for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
            "    pid = int(path.parent.name)\n"
            f"    if pid not in (1, os.getpid()) and {needle!r} in path.read_bytes().decode().split(chr(0))[0]:\n"
            "        os.kill(pid, signal.SIGKILL); found += 1\n"
            f"assert found, 'no process named {needle}'\n"
        )
        self.inside(service, "python3", "-c", code)


@contextmanager
def running(checkpoints: Path) -> Iterator[Stack]:
    """Build, start and, in the end, remove the project. `checkpoints`: what the worker sees as /checkpoints."""
    ports = {name: str(free_port()) for name in ("GATEWAY_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")}
    stack = Stack({"COMPOSE_PROJECT_NAME": f"proscale-test-{os.getpid()}", "CHECKPOINTS_DIR": str(checkpoints), **ports})
    try:
        for service in ("gateway", "triton"):
            stack.compose("build", service)
        stack.compose("up", "-d", "--no-build", *SERVICES)
        until(lambda: stack.healthy("gateway"), 120, "the gateway is healthy")
        yield stack
    except BaseException:
        print(stack.compose("logs", "--tail=100"))
        raise
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
