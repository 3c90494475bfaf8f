"""What the documents name exists: files, commands, make targets, settings, metrics."""

import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from prometheus_client.metrics_core import Metric

from proscale.bulk.metrics import JobMetrics
from proscale.cli import main
from proscale_service.metrics import Metrics
from proscale_service.settings import CLIENT_KEY, PREFIX, RENAMED, Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
EVERYTHING = "\n".join(TEXT.values())

FILES_OF_MODELS = {
    "calibration.json",
    "config.json",
    "proscale.json",
    "labels.json",
    "model.safetensors",
    "source.json",
    "preprocessor_config.json",
    "answer.json",
    "_summary.json",
    "images.json",
    "panoptic.json",
    "TASK-results.json",
}
"""What stands in model folders, ours and others', and in answers; not in the repository by these paths."""
FILES_OF_DATA_SETS = {
    "annotations/panoptic_val2017.json",
    "annotations/instances_val2017.json",
    "gtFine/cityscapes_panoptic_val.json",
    "ade20k_panoptic_val.json",
    "ade20k_instance_val.json",
    "SPLIT/_annotations.coco.json",
    "classes.txt",
}
"""Public data sets have these."""


def test_the_documents_are_there() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= TEXT.keys()


@pytest.mark.parametrize("name", TEXT)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT[name]):
        assert (ROOT / name).parent.joinpath(target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("name", TEXT)
def test_files_that_are_named_exist(name: str) -> None:
    folders = [
        (ROOT / name).parent,
        ROOT,
        ROOT / "model/proscale",
        ROOT / "model/proscale/pixel_decoder",
        ROOT / "service/proscale_service",
        ROOT / "service/proscale_service/engines",
    ]
    for path in re.findall(r"`([\w./-]+\.(?:py|md|toml|txt|json|yml|yaml|jpg|png|safetensors))`", TEXT[name]):
        made_by_commands = path.startswith(("demo/", "runs/")) or path in FILES_OF_MODELS | FILES_OF_DATA_SETS
        assert made_by_commands or any((folder / path).exists() for folder in folders), f"{name} names {path}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", EVERYTHING, re.MULTILINE))
    assert {"demo", "test", "serve"} <= named <= targets


def test_commands_and_their_options_exist() -> None:
    named = set(re.findall(r"(?:`|^|\$ )proscale ([a-z-]+)", EVERYTHING, re.MULTILINE))
    assert {"serve", "segment"} <= named
    for command in named:
        result = CliRunner().invoke(main, [command, "--help"])
        assert result.exit_code == 0, command
        for line in re.findall(rf"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*proscale {command} ((?:.*\\\n)*.*)$", EVERYTHING, re.MULTILINE):
            words = line.split()
            if words and words[0] in getattr(main.get_command(click.Context(main), command), "commands", {}):
                result = CliRunner().invoke(main, [command, words[0], "--help"])
            for option in re.findall(r"(?<!\S)--[a-z-]+", line):
                assert option in result.output, f"proscale {command} {option}"


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("serve", "segment", "convert", "models", "flops", "train", "evaluate", "worker", "doctor"):
        assert re.search(rf"^\s+{command}\s+\S", result.output, re.MULTILINE), command


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(PROSCALE_\w+)` \| (.*?) \|", TEXT["README.md"], re.MULTILINE))
    assert rows.keys() == {PREFIX + name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        documented = rows[PREFIX + name.upper()].strip("`")
        default = "" if field.default is None else str(field.default)
        assert documented in (default, f"{int(default):,}" if default.isdecimal() else default), name


def test_every_named_setting_exists() -> None:
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *RENAMED)} | {CLIENT_KEY}
    assert set(re.findall(r"\bPROSCALE_[A-Z_]+\b", EVERYTHING)) <= known


def test_documented_metrics_are_those_that_exist() -> None:
    families: list[Metric] = [*Metrics().registry.collect(), *JobMetrics().collect()]
    ours = {family.name + ("_total" if family.type == "counter" else "") for family in families if family.name.startswith("proscale_")}
    # The worker's are made in Triton's Python backend alone.
    ours |= set(re.findall(r'"(proscale_worker_\w+)"', (ROOT / "docker/triton/model_repository/proscale/1/model.py").read_text()))
    named = {name for name in re.findall(r"`(proscale_[a-z_]+)(?:\{[^`]*)?`", EVERYTHING) if name != "proscale_service"}
    assert ours == named


def test_nothing_tracked_is_large() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    sizes = {name: (ROOT / name).stat().st_size for name in files if name and (ROOT / name).is_file()}
    assert max(sizes.values()) <= 20_000_000
    assert sum(sizes.values()) <= 64 * 2**20
