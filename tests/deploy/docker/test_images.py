"""Dockerfiles, compose files and lock files, as far as they can be judged without building anything."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.deploy.environment import WORKER_VARIABLES

from proscale import __version__
from proscale_service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[3]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
GPU_SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]


def pins(name: str) -> dict[str, str]:
    """Lock file -> name: version; names as packaging compares them."""
    lines = (ROOT / "requirements" / name).read_text().split()
    assert all("==" in line for line in lines), name
    return {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}


def final_stage(dockerfile: Path) -> str:
    return re.split(r"^FROM ", dockerfile.read_text(), flags=re.MULTILINE)[-1]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_reports_nothing(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--config", str(ROOT / ".hadolint.yaml"), "--failure-threshold", "style", str(dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_unprivileged_and_stop_on_sigterm(dockerfile: Path) -> None:
    final = final_stage(dockerfile)
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert 'ENTRYPOINT ["tini", "--"]' in final
    assert "STOPSIGNAL SIGTERM" in final
    assert "HEALTHCHECK" in final
    assert re.search(r'^CMD \["', final, re.MULTILINE), "a shell would swallow signals"
    assert "org.opencontainers.image.version" in final
    assert f"ARG VERSION={__version__}" in final
    assert not re.search(r"^RUN ", final, re.MULTILINE), "compilers and package managers stay in the build stages"


def test_base_images_are_pinned() -> None:
    text = "\n".join(path.read_text() for path in [*DOCKERFILES, ROOT / "docker-compose.yml"])
    images = set(re.findall(r"_IMAGE(?:=|:-)([\w./-]+(?::[\w.-]+)?)", text))
    assert len(images) == 4
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), f"{image} has no version"


def test_compose_and_dockerfiles_agree_on_base_images() -> None:
    for name in ("gateway", "triton"):
        dockerfile = (ROOT / SERVICES[name]["build"]["dockerfile"]).read_text()
        for argument, value in SERVICES[name]["build"]["args"].items():
            default = re.search(rf"^ARG {argument}=(.*)$", dockerfile, re.MULTILINE)
            assert default, f"{argument} is no argument of {name}"
            assert re.fullmatch(rf"\$\{{{argument}:?-{re.escape(default[1])}\}}|{re.escape(default[1])}", value), argument


def test_what_dockerfiles_copy_is_in_the_build_context() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = set()
    for dockerfile in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile.read_text(), re.MULTILINE):
            copied |= set(line.split()[:-1])
    assert all(any(path == entry or path.startswith(entry + "/") for entry in allowed) for path in copied)
    assert all(any(path == entry or path.startswith(entry + "/") for path in copied) for entry in allowed), (
        "the context is larger than needed"
    )
    assert all((ROOT / path).exists() for path in copied), copied


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "pids_limit", "restart"} <= service.keys()
    assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()
    # What looks at pictures, metrics and dashboards without a question is for this machine only, unless told otherwise.
    assert all(port.startswith(("127.0.0.1:", "${BIND_ADDRESS:-127.0.0.1}:")) for port in service.get("ports", ()))


def test_the_gateway_waits_for_a_healthy_worker() -> None:
    assert SERVICES["gateway"]["depends_on"]["triton"] == {"condition": "service_healthy"}
    assert SERVICES["triton"]["healthcheck"]["test"] == ["CMD", "python3", "-m", "proscale.worker_probe", "ready"]
    assert '["python3", "-m", "proscale.worker_probe", "live"]' in final_stage(ROOT / "docker/triton.Dockerfile")
    assert "/health/ready" in SERVICES["gateway"]["healthcheck"]["test"][-1]


def test_containers_get_longer_to_end_than_draining_takes() -> None:
    environment = SERVICES["gateway"]["environment"]
    drain = float(environment["PROSCALE_DRAIN_S"]) + float(environment.get("PROSCALE_DRAIN_DELAY_S", 0))
    assert float(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > drain + 5
    command = re.findall(r"--exit-timeout-secs=(\d+)", (ROOT / "docker/triton.Dockerfile").read_text())
    assert float(SERVICES["triton"]["stop_grace_period"].removesuffix("s")) > float(command[-1])


def test_variables_are_settings() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    dockerfile = set(re.findall(r"(PROSCALE_\w+)=", final_stage(ROOT / "docker/gateway.Dockerfile")))
    assert dockerfile | SERVICES["gateway"]["environment"].keys() <= known
    assert SERVICES["triton"]["environment"].keys() | GPU_SERVICES["triton"]["environment"].keys() <= WORKER_VARIABLES


def test_the_worker_is_on_an_internal_network_alone() -> None:
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"]
    assert [name for name in SERVICES["triton"]["networks"] if not (networks[name] or {}).get("internal")] == []
    assert "ports" not in SERVICES["triton"]


def test_gpus_are_used_only_on_request() -> None:
    assert "deploy" not in SERVICES["triton"]
    device = GPU_SERVICES["triton"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert GPU_SERVICES["triton"]["build"]["args"]["VARIANT"] == "gpu"
    assert GPU_SERVICES["triton"]["environment"]["PROSCALE_DEVICE"] == "cuda"


def test_the_gateways_lock_is_the_services_without_the_network() -> None:
    run, gateway = pins("run.txt") | pins("test.txt"), pins("gateway.txt")
    assert gateway.items() <= run.items(), "run `make lock`"
    assert not {"torch", "scipy", "safetensors", "huggingface-hub", "transformers"} & gateway.keys()


def test_the_workers_lock_is_the_services_without_http() -> None:
    run, worker = pins("run.txt") | pins("test.txt"), pins("worker.txt")
    assert worker.pop("numpy").startswith("1.26."), "Triton's Python backend was built for numpy 1"
    assert worker.items() <= run.items()
    assert not {"fastapi", "uvicorn", "pydantic"} & worker.keys()


@pytest.mark.parametrize("lock", ["gateway.txt", "worker.txt"])
def test_locks_contain_every_dependency(lock: str) -> None:
    """Everything that a locked package needs is locked too, so that an installation resolves nothing by itself."""
    locked = pins(lock)
    for name in locked:
        for text in requires(name) or ():
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and not requirement.name.startswith(("nvidia-", "cuda-", "triton")):
                assert requirement.name.lower().replace("_", "-") in locked, f"{name} needs {requirement.name}"


def test_both_images_hold_what_spans_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tracing = {Requirement(text).name for text in project["optional-dependencies"]["tracing"]}
    assert tracing <= pins("gateway.txt").keys() & pins("worker.txt").keys()
    assert tracing <= set((ROOT / "requirements/worker.in").read_text().split())
    assert "[gateway,tracing]" in (ROOT / "docker/gateway.Dockerfile").read_text()
    assert {"PROSCALE_OTLP_ENDPOINT", "PROSCALE_TRACE_SHARE"} <= SERVICES["gateway"]["environment"].keys()
    assert "PROSCALE_OTLP_ENDPOINT" in SERVICES["triton"]["environment"]


def test_the_tracing_overlay_reaches_a_collector_from_both_networks() -> None:
    overlay = yaml.safe_load((ROOT / "docker-compose.tracing.yml").read_text())["services"]
    for name in ("gateway", "triton"):
        endpoint = urlsplit(overlay[name]["environment"]["PROSCALE_OTLP_ENDPOINT"])
        assert (endpoint.hostname, endpoint.port) == ("jaeger", 4318)
        assert set(SERVICES[name]["networks"]) <= set(overlay["jaeger"]["networks"])
    for setting in ("restart", "read_only", "cap_drop", "security_opt", "logging"):
        assert overlay["jaeger"][setting] == SERVICES["prometheus"][setting]
    assert all(port.startswith("127.0.0.1:") for port in overlay["jaeger"]["ports"])


@pytest.mark.slow
def test_the_gateway_imports_only_what_is_locked_for_it() -> None:
    locked = pins("gateway.txt").keys()
    code = (
        "import sys, json, importlib.metadata as m; import proscale_service.server, proscale_service.cli, proscale.cli\n"
        "owners = m.packages_distributions()\n"
        "print(json.dumps(sorted({d.lower().replace('_', '-') for name in sys.modules for d in owners.get(name.split('.')[0], [])})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    imported = set(yaml.safe_load(done.stdout)) - {"proscale-segmentation-service", "setuptools", "pip"}
    optional = {"brotli", "pygments", "regex", "rich"}  # used where they happen to be installed
    # All of OpenTelemetry seems imported, since its packages share a name; tests/service/test_tracing.py holds that they are not.
    assert imported - optional <= locked


def test_every_variable_of_the_compose_files_is_documented() -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "docker-compose.gpu.yml", ROOT / "docker-compose.tracing.yml"]
    used = {name for path in files for name in re.findall(r"\$\{([A-Z_]+)", path.read_text())}
    used |= {name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if value is None}
    head = files[0].read_text().split("\nx-hardened")[0] + files[2].read_text().split("\nservices:")[0]
    assert used == set(re.findall(r"\b[A-Z]+_[A-Z_]+\b|\bVERSION\b", head))
    page = (ROOT / "docs/deploy.md").read_text()
    table = {name for row in page.splitlines() if row.startswith("| `") for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    assert used - {"VERSION"} == table


@pytest.mark.parametrize("image", ["gateway", "worker"])
def test_locked_packages_have_hashes_for_every_platform_and_images_insist_on_them(image: str) -> None:
    text = (ROOT / f"requirements/{image}.hashes.txt").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    hashed = {canonicalize_name(name): version for name, version in (line[0].split("==") for line in lines)}
    # PyTorch's index and PyPI have different files of torch.
    assert hashed == {canonicalize_name(name): version for name, version in pins(f"{image}.txt").items() if name != "torch"}, (
        "run `make hashes`"
    )
    for name, *hashes in lines:
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), name
    dockerfile = (ROOT / "docker" / ("gateway.Dockerfile" if image == "gateway" else "triton.Dockerfile")).read_text()
    assert f"--no-deps --require-hashes -r requirements/{image}.hashes.txt" in dockerfile


def test_images_are_built_for_two_architectures_with_what_is_in_them() -> None:
    bake = json.loads((ROOT / "docker/bake.json").read_text())
    assert set(bake["group"]["default"]["targets"]) == bake["target"].keys()
    assert bake["variable"]["VERSION"]["default"] == __version__
    for name, target in bake["target"].items():
        assert target["platforms"] == ["linux/amd64", "linux/arm64"], name
        assert target["attest"] == ["type=sbom", "type=provenance,mode=max"], name
        dockerfile = (ROOT / target["dockerfile"]).read_text()
        for argument, value in target["args"].items():
            default = re.search(rf"^ARG {argument}=(.*)$", dockerfile, re.MULTILINE)
            assert default, (name, argument)
            variable = re.fullmatch(r"\$\{(\w+)\}", value)
            assert variable is None or bake["variable"][variable[1]]["default"] == default[1], (name, argument)
        # Kustomize knows the images by these names.
        (tag,) = target["tags"]
        assert re.fullmatch(r"\$\{REGISTRY\}/proscale-(gateway|triton):\$\{VERSION\}(-gpu)?", tag)
    assert bake["target"]["triton-gpu"]["args"]["TORCH_INDEX_URL"] == "", "pip's own index: torch with CUDA"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_name_no_architecture(dockerfile: Path) -> None:
    assert not re.search(r"x86|amd64|aarch64|arm64|--platform", dockerfile.read_text())


def test_every_tag_becomes_images_by_the_same_file() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text())
    runs = [step["run"] for step in workflow["jobs"]["images"]["steps"] if "run" in step]
    assert any("docker buildx bake -f docker/bake.json --push" in run for run in runs)
    assert "docker buildx bake -f docker/bake.json --push" in (ROOT / "docs/deploy.md").read_text()
