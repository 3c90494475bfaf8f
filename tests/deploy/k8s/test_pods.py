"""The pods of the CPU overlay, run by podman as Kubernetes would run them: security contexts, settings, probes' paths, and their end.

podman knows no StatefulSet, no cluster DNS and no memory-backed volumes, so the pod templates run as pods, the gateway is given the
worker's address, and /dev/shm is podman's own. The rest is as rendered.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.deploy.compose.stack import ROOT, engine_missing, free_port, until

VERSION = os.environ.get("VERSION", "0.1.0")
MISSING = engine_missing() or next((f"needs {tool}" for tool in ("kubectl", "podman") if shutil.which(tool) is None), "")
pytestmark = [pytest.mark.docker, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


class Podman:
    """podman with storage of its own."""

    def __init__(self, folder: Path) -> None:
        limits = folder / "containers.conf"
        # podman's defaults ask for more than a container may have that itself runs in one.
        limits.write_text('[containers]\ndefault_ulimits = ["nofile=8192:8192", "nproc=4096:4096"]\n')
        self._environment = os.environ | {"CONTAINERS_CONF": str(limits)}
        self._environment.pop("DOCKER_CONFIG", None)  # podman would look for logins there
        self._options = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
        if shutil.which("runc"):
            self._options += ["--runtime", "runc"]

    def __call__(self, *arguments: str, timeout: float = 300) -> str:
        command = ["podman", *self._options, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {"gateway/http": free_port(), "triton/http": free_port(), "triton/grpc": free_port()}


@pytest.fixture(scope="module")
def podman(ports: dict[str, int]) -> Iterator[Podman]:
    """Both pods, started; images come from the Docker engine that built them for `docker compose`."""
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    podman = Podman(folder)
    try:
        for name in ("gateway", "triton"):
            tag = f"proscale-{name}:{VERSION}"
            if subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode:
                subprocess.run(["docker", "compose", "build", name], cwd=ROOT, check=True, timeout=900)
            podman("pull", f"docker-daemon:{tag}")
        (folder / "pods.yaml").write_text(yaml.safe_dump_all(pods(ports)))
        podman("play", "kube", str(folder / "pods.yaml"))
        yield podman
    finally:
        try:
            for name in podman("ps", "--all", "--format", "{{.Names}}").split():
                print(podman("logs", "--tail=30", name))
            podman("pod", "rm", "--force", "--all")
            podman("rmi", "--force", "--all")
        finally:
            # podman leaves its storage mounted on itself, and nobody could remove the folder.
            subprocess.run(["umount", str(folder / "root" / "overlay")], capture_output=True, check=False)
            shutil.rmtree(folder, ignore_errors=True)


def pods(ports: dict[str, int]) -> list[dict[str, Any]]:
    from k8s.render import render

    found: list[dict[str, Any]] = []
    for manifest in yaml.safe_load_all(render("cpu")):
        if manifest["kind"] == "ConfigMap":
            manifest["metadata"].pop("namespace")
            if "PROSCALE_TRITON_URL" in manifest["data"]:
                manifest["data"]["PROSCALE_TRITON_URL"] = f"host.containers.internal:{ports['triton/grpc']}"
            found.insert(0, manifest)
        elif manifest["kind"] in ("Deployment", "StatefulSet"):
            name, template = manifest["metadata"]["name"], manifest["spec"]["template"]
            container = template["spec"]["containers"][0]
            container["image"] = f"docker.io/library/proscale-{name}:{VERSION}"
            for port in container["ports"]:
                if f"{name}/{port['name']}" in ports:
                    port["hostPort"] = ports[f"{name}/{port['name']}"]
            for owner, field in ((template["spec"], "volumes"), (container, "volumeMounts")):
                owner[field] = [each for each in owner[field] if each["name"] != "shm"]
            metadata = {"name": name, "labels": template["metadata"]["labels"]}
            found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    return found


def test_both_pods_become_ready_and_segment_a_picture(podman: Podman, ports: dict[str, int]) -> None:
    triton, gateway = (f"http://127.0.0.1:{ports[f'{name}/http']}" for name in ("triton", "gateway"))
    until(lambda: httpx.get(f"{triton}/v2/models/proscale/ready").is_success, 120, "the worker's readiness probe passes")
    until(lambda: httpx.get(f"{gateway}/health/startup").is_success, 60, "the gateway's startup probe passes")
    until(lambda: httpx.get(f"{gateway}/health/ready").is_success, 60, "the gateway's readiness probe passes")
    picture = (ROOT / "examples/nuclei.jpg").read_bytes()
    answer = httpx.post(f"{gateway}/segment", content=picture, headers={"content-type": "image/jpeg"}, timeout=120)
    assert answer.status_code == 200, answer.text
    assert [segment["label"] for segment in answer.json()["segments"]].count("nucleus") > 20


@pytest.mark.parametrize("name", ["gateway", "triton"])
def test_the_restricted_level_is_in_force(podman: Podman, name: str) -> None:
    status = podman("exec", f"{name}-{name}", "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] == "10001"
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    root = next(line for line in podman("exec", f"{name}-{name}", "cat", "/proc/mounts").splitlines() if line.split()[1] == "/")
    assert root.split()[3].startswith("ro")


def test_the_worker_uses_as_many_threads_as_it_has_processors(podman: Podman) -> None:
    assert "PROSCALE_THREADS=2" in podman("exec", "triton-triton", "env").splitlines()


@pytest.mark.parametrize("name", ["gateway", "triton"])
def test_pods_shut_down_in_order(podman: Podman, name: str) -> None:
    podman("stop", "--time", "60", f"{name}-{name}")
    assert podman("inspect", "--format", "{{.State.ExitCode}}", f"{name}-{name}").strip() == "0"
