"""A real Triton Inference Server, from the environment that `make triton-env` makes, on free ports of this machine."""

import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = ROOT / ".venv-triton"
REPOSITORY = ROOT / "docker" / "triton" / "model_repository"
READY_SECONDS = 120

needs_triton = pytest.mark.skipif(not (ENVIRONMENT / "done").exists(), reason="no Triton server: run `make triton-env`")
REST_S = 0.5
"""Before an idle model's process is killed: Triton aborts when that process held a lock that both share, as it does after an answer."""


class TritonServer:
    """One server process; `start` again after `kill` or `stop` uses the same ports."""

    def __init__(self, folder: Path, environment: Mapping[str, str], repository: Path = REPOSITORY) -> None:
        """Args: folder: for its files and log; environment: added to the worker's, `PROSCALE_CHECKPOINT` and so on."""
        self._folder, self._environment, self._repository = folder, dict(environment), repository
        self.http_port, self.grpc_port, self.metrics_port = _free_ports(3)
        self.log = folder / "triton.log"
        self._shm_prefix = f"proscale_test_{uuid.uuid4().hex[:12]}_"
        self._process: subprocess.Popen[bytes] | None = None
        self._changing = threading.RLock()

    @contextmanager
    def kept_running(self) -> Iterator[None]:
        """As under compose and Kubernetes: a server that ends by itself is started again. It aborts when a model's process is killed under
        load while that holds a lock that both share."""
        over = threading.Event()

        def keep() -> None:
            while not over.wait(0.2):
                with self._changing:
                    if self._process is not None and self._process.poll() is not None:
                        self.kill()
                        self.start(wait=False)

        keeper = threading.Thread(target=keep)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()

    @property
    def url(self) -> str:
        """Of the gRPC service, as the gateway's setting wants it."""
        return f"127.0.0.1:{self.grpc_port}"

    def start(self, wait: bool = True) -> None:
        """Run the server; with `wait`, until the model is ready."""
        addresses = {
            "http-address": "127.0.0.1",
            "http-port": self.http_port,
            "grpc-address": "127.0.0.1",
            "grpc-port": self.grpc_port,
            "metrics-address": "127.0.0.1",
            "metrics-port": self.metrics_port,
        }
        command = [
            ENVIRONMENT / "bin" / "python",
            "-m",
            "proscale.worker_command",
            f"--model-repository={self._repository}",
            "--model-control-mode=explicit",
            "--load-model=proscale",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=10",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            *(f"--{name}={value}" for name, value in addresses.items()),
        ]
        with self._changing, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command], env=os.environ | self._environment, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Until the model answers; fails with the server's log."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if self.http_ok("/v2/models/proscale/ready"):
                return
            time.sleep(0.1)
        self.kill()
        pytest.fail(f"the Triton server did not become ready:\n{self.log.read_text()[-4000:]}")

    def http_ok(self, path: str) -> bool:
        """Does the HTTP service answer with 200?"""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> dict[str, float]:
        """Every sample, `name{labels}` -> value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line and line[0] != "#")}

    def backend_pids(self) -> list[int]:
        """The processes in which the model runs."""
        assert self._process is not None
        children = subprocess.run(
            ["pgrep", "-f", "triton_python_backend_stub", "--session", str(self._process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in children.stdout.split()]

    def memory(self) -> dict[str, int]:
        """Bytes of private and file pages of Triton itself, of the processes of the model, and of the memory that they share."""
        assert self._process is not None
        models = self.backend_pids()
        found = subprocess.run(["pgrep", "--session", str(self._process.pid)], capture_output=True, text=True, check=False)
        return {
            "triton": sum(_pages(int(pid)) for pid in found.stdout.split() if int(pid) not in models),
            "model": sum(map(_pages, models)),
            "shared": sum(region.stat().st_blocks * 512 for region in self.shared_memory() if region.exists()),
        }

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(30)
        self._process = None
        return status

    def abort(self) -> None:
        """End the server, and it alone, as a fault of its own does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGABRT)

    def hang(self) -> None:
        """Stop it without closing anything, as a machine does that is out of reach; `resume` ends that."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `hang`."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes; removes the shared memory that it could not."""
        with self._changing:
            if self._process is not None:
                with suppress(ProcessLookupError):  # all have ended by themselves
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(30)
                self._process = None
            for region in self.shared_memory():
                region.unlink(missing_ok=True)

    def shared_memory(self) -> list[Path]:
        """Its regions in /dev/shm."""
        return sorted(Path("/dev/shm").glob(f"{self._shm_prefix}*"))


def _pages(pid: int) -> int:
    """Bytes of a process's private and file pages; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssFile:")))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
