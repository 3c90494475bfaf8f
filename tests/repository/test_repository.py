"""What holds for the repository as a whole: files stay short, and the kit for contributors agrees with the commands."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LINES = 400
LONGER = {
    "model/proscale/ops/csrc/cuda_kernel.cuh": "one kernel, forward and backward, whose parts share their indexing",
}
"""Sources that may be longer, and why."""
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh", ".js", ".css", ".html"}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_source_file_is_too_long() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in tracked()
        if path.suffix in SOURCES and path.exists() and (lines := len(path.read_text().splitlines())) > LINES
    }
    assert long.keys() == LONGER.keys(), f"too long, or no longer so: {long}"


def test_the_workflow_runs_what_developers_run() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    versions = {*jobs["test"]["strategy"]["matrix"]["python"], *re.findall(r"3\.\d+", jobs["quick"]["container"])}
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert versions == {text.rsplit(" ", 1)[1] for text in classifiers if text.startswith("Programming Language :: Python :: 3.")}
    assert jobs["test"]["steps"][-1]["run"] == ".ci/run"
    assert jobs["quick"]["steps"][-1]["run"] == "make quick"


def test_hooks_are_make_targets() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        command, target = hook["entry"].split()
        assert (command, target in TARGETS) == ("make", True), hook


def test_the_issue_form_asks_what_is_needed() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    assert all(part["validations"]["required"] for part in form["body"])
