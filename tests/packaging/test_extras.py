"""The base is the client, `gateway` and `model` add more: each installs and runs without the rest, and says what it lacks."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from tests.service.collector import Collector

from proscale.cli import COMMANDS, GATEWAY_PACKAGES, MODEL_PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = [Requirement(text) for text in PROJECT["dependencies"]]
GATEWAY = [Requirement(text) for text in PROJECT["optional-dependencies"]["gateway"]]
BLOCKED = "import sys; sys.modules.update(dict.fromkeys({!r})); from proscale.cli import main; main(sys.argv[1:])"
"""Runs `proscale` as if packages were missing."""


def names(requirements: list[Requirement]) -> set[str]:
    return {requirement.name.lower().replace("_", "-") for requirement in requirements}


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().split()
    return {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}


def run(*arguments: str, missing: tuple[str, ...] = MODEL_PACKAGES, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROSCALE_")} | environment
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(missing), *arguments], env=clean, capture_output=True, text=True, timeout=120
    )


def test_the_gateway_locks_what_it_needs() -> None:
    lock = locked("gateway.txt")
    for requirement in [*BASE, *GATEWAY]:
        assert requirement.specifier.contains(lock[requirement.name.lower().replace("_", "-")]), requirement
    assert not {"torch", "scipy", "transformers"} & lock.keys()


def test_the_error_names_the_packages_of_the_extra() -> None:
    extra = names([Requirement(text) for text in PROJECT["optional-dependencies"]["model"]]) - {PROJECT["name"]}
    assert extra == {name.replace("_", "-") for name in MODEL_PACKAGES}
    assert not extra & names([*BASE, *GATEWAY])
    modules = {name.replace("_", "-") for name in GATEWAY_PACKAGES} - {"yaml"} | {"pyyaml"}
    assert names(GATEWAY) == modules
    assert not names(BASE) & names(GATEWAY)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "segment", "keys"])
def test_the_client_alone_says_how_to_install_the_gateway(command: str) -> None:
    missing = (*MODEL_PACKAGES, *GATEWAY_PACKAGES)
    done = run(command, "--help", missing=missing)
    assert done.returncode == 1
    assert "pip install 'proscale-segmentation-service[gateway]'" in done.stderr
    assert "Traceback" not in done.stderr
    listed = run("--help", missing=missing)
    assert listed.returncode == 0, listed.stderr
    assert "[gateway]" in listed.stdout


def of_the_client() -> dict[str, int]:
    """What the base and all that it pulls in takes on disk, in bytes, without compiled caches."""
    wanted, bytes_of = [requirement.name for requirement in BASE], dict[str, int]()
    while wanted:
        name = wanted.pop().lower()
        if name in bytes_of:
            continue
        found = distribution(name)
        files = [Path(str(file.locate())) for file in found.files or () if "__pycache__" not in file.parts]
        bytes_of[name] = sum(path.stat().st_size for path in files if path.is_file())
        needed = [Requirement(text) for text in found.requires or ()]
        wanted += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return bytes_of


def test_the_client_is_tens_of_megabytes() -> None:
    assert not {"torch", "scipy", "fastapi", "tritonclient", "grpcio"} & of_the_client().keys()
    assert sum(of_the_client().values()) < 100_000_000, of_the_client()


@pytest.mark.parametrize("extra", ["base", *PROJECT["optional-dependencies"]])
def test_every_named_package_is_pinned(extra: str) -> None:
    """`make lock` was run, or pins were added by hand, since what the package needs changed."""
    pins = locked("run.txt") | locked("test.txt") | locked("docs.txt")
    named = PROJECT["dependencies"] if extra == "base" else PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, named):
        name = requirement.name.lower().replace("_", "-")
        if name != PROJECT["name"]:
            assert requirement.specifier.contains(pins[name], prereleases=True), requirement
    if extra in ("base", "gateway", "model"):
        assert names(list(map(Requirement, named))) - {PROJECT["name"]} <= locked("run.txt").keys()


@pytest.mark.slow
def test_help_needs_no_torch() -> None:
    commands = [*COMMANDS, "segment", "serve"]
    code = (
        f"import json, sys; sys.modules.update(dict.fromkeys({MODEL_PACKAGES!r}))\n"
        "from click.testing import CliRunner; from proscale.cli import main\n"
        f"results = {{command: CliRunner().invoke(main, [command, '--help']) for command in {commands!r}}}\n"
        "print(json.dumps({command: [result.exit_code, result.output] for command, result in results.items()}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    for command, (status, output) in json.loads(done.stdout).items():
        assert status == 0, f"{command}: {output}"
        assert "Usage:" in output


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["segment", str(ROOT / "examples/scene.png")], ["doctor"], ["evaluate", "--scenes", "1"]], ids=str)
def test_a_command_that_computes_says_how_to_install_the_network(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert "pip install 'proscale-segmentation-service[model]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_serving_in_process_says_how_to_install_the_network() -> None:
    done = run("serve", "--port", "0")
    assert done.returncode == 2
    assert "pip install 'proscale-segmentation-service[model]'" in done.stderr
    assert "PROSCALE_ENGINE=triton" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("model", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("_native*", "__pycache__", "*.egg-info"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # Without a compiler: the gateway needs no operator, and the wheel with it is tested beside the operator.
    without = os.environ | {"CXX": "no-compiler", "MS_DEFORM_ATTN_CUDA": "0"}
    build = [*pip, "wheel", str(folder), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "out")]
    subprocess.run(build, env=without, check=True, capture_output=True)
    (built,) = (folder / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def gateway(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of requirements/gateway.txt with the wheel, as the image has it."""
    return environment_of(wheel, "gateway,tracing", locked("gateway.txt"), tmp_path_factory.mktemp("gateway"))


def environment_of(wheel: Path, extra: str, packages_of: Iterable[str], folder: Path) -> Path:
    """The Python of an environment with packages that are linked from this one, into which pip installs the wheel with an extra."""
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    for name in packages_of:
        for file in distribution(name).files or ():
            source, top = Path(str(file.locate())), file.parts[0]
            if top != ".." and "__pycache__" not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    done = subprocess.run([*pip, "install", "--no-index", f"{wheel}[{extra}]"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


@pytest.mark.slow
@pytest.mark.parametrize("package", ["proscale", "proscale_service"])
def test_the_wheel_holds_every_file_of_the_packages(gateway: Path, package: str) -> None:
    source = ROOT / ("model" if package == "proscale" else "service") / package
    (installed,) = gateway.parents[1].glob(f"lib/python3*/site-packages/{package}")
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=source, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {name for name in listed.stdout.split("\0") if name} <= {
        path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_pip_alone_installs_a_gateway_that_starts(gateway: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROSCALE_", "PYTHONPATH"))}
    command = [str(gateway.with_name("proscale")), "serve", "--port", "0"]
    with Collector() as collector:
        given = {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": "127.0.0.1:9", "PROSCALE_OTLP_ENDPOINT": collector.url}
        with subprocess.Popen(command, env=clean | given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            served = re.match(r"Serving on (http://127\.0\.0\.1:\d+)", line)
            if served is not None:
                assert httpx.post(f"{served[1]}/segment", content=b"x", timeout=60).status_code == 503
            process.terminate()
            _, errors = process.communicate(timeout=60)
        assert served, errors
        assert [span.name for span in collector.spans] == ["POST /segment"], errors
    refused = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "[model]" in refused.stderr


@pytest.mark.slow
def test_pip_alone_installs_a_client(wheel: Path, tmp_path: Path) -> None:
    python = environment_of(wheel, "client", of_the_client(), tmp_path)
    code = "import sys; from proscale_service.client import AsyncClient, Client; print('torch' in sys.modules)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROSCALE_", "PYTHONPATH"))}
    done = subprocess.run([str(python), "-c", code], env=clean, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")
    missing = subprocess.run([str(python), "-c", "import torch"], env=clean, capture_output=True, timeout=60)
    assert missing.returncode == 1
