"""The package without extras is the gateway and the client: it installs and runs without torch, and says what it lacks."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from proscale.cli import COMMANDS, MODEL_PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = [Requirement(text) for text in PROJECT["dependencies"]]
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({MODEL_PACKAGES!r})); from proscale.cli import main; main(sys.argv[1:])"
"""Runs `proscale` as if the packages of the extra `model` were missing."""


def names(requirements: list[Requirement]) -> set[str]:
    return {requirement.name.lower().replace("_", "-") for requirement in requirements}


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().split()
    return {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROSCALE_")} | environment
    return subprocess.run([sys.executable, "-c", BLOCKED, *arguments], env=clean, capture_output=True, text=True, timeout=120)


def test_the_base_is_what_the_gateway_locks() -> None:
    lock = locked("gateway.txt")
    for requirement in BASE:
        assert requirement.specifier.contains(lock[requirement.name.lower().replace("_", "-")]), requirement
    assert not {"torch", "scipy", "transformers"} & lock.keys()


def test_the_error_names_the_packages_of_the_extra() -> None:
    extra = names([Requirement(text) for text in PROJECT["optional-dependencies"]["model"]])
    assert extra == {name.replace("_", "-") for name in MODEL_PACKAGES}
    assert not extra & names(BASE)


@pytest.mark.parametrize("command", [*COMMANDS, "segment", "serve"])
def test_help_needs_no_torch(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("arguments", [["segment", str(ROOT / "examples/scene.png")], ["doctor"], ["evaluate", "--scenes", "1"]], ids=str)
def test_a_command_that_computes_says_how_to_install_the_network(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert "pip install 'proscale-segmentation-service[model]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_in_process_says_how_to_install_the_network() -> None:
    done = run("serve", "--port", "0")
    assert done.returncode == 2
    assert "pip install 'proscale-segmentation-service[model]'" in done.stderr
    assert "PROSCALE_ENGINE=triton" in done.stderr


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the packages of requirements/gateway.txt, linked from this one, into which pip installs the wheel."""
    folder = tmp_path_factory.mktemp("gateway")
    for name in ("model", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("_native*", "__pycache__", "*.egg-info"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # Without a compiler: the gateway needs no operator, and the wheel with it is tested beside the operator.
    without = os.environ | {"CXX": "no-compiler", "MS_DEFORM_ATTN_CUDA": "0"}
    build = [*pip, "wheel", str(folder), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "out")]
    subprocess.run(build, env=without, check=True, capture_output=True)
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    for name in locked("gateway.txt"):
        for file in distribution(name).files or ():
            source, top = Path(str(file.locate())), file.parts[0]
            if top != ".." and "__pycache__" not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
    (wheel,) = (folder / "out").glob("*.whl")
    python = environment / "bin/python"
    done = subprocess.run([*pip, "--python", str(python), "install", "--no-index", str(wheel)], capture_output=True, text=True)
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
    with subprocess.Popen(
        command,
        env=clean | {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": "127.0.0.1:9"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert re.match(r"Serving on http://127\.0\.0\.1:\d+", line), errors
    refused = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "[model]" in refused.stderr
