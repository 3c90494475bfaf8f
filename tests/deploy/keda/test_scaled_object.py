"""The ScaledObject of k8s/components/worker-autoscaling against KEDA's own types: unknown fields, wrong types, unknown words.

The types are those of @kubernetes-models/keda (MIT), generated from KEDA's API. `make node-env` installs it.
"""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
MANIFEST = yaml.safe_load((ROOT / "k8s/components/worker-autoscaling/scaled-object.yaml").read_text())
Manifest = dict[str, Any]

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("node") is None or not (HERE / "node_modules").is_dir():
        pytest.skip("node or KEDA's types are missing; `make node-env` installs them")
    for name in ("package.json", "tsconfig.json", "validate.js"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    return tmp_path


def complaints(folder: Path, manifests: list[Manifest]) -> list[str]:
    """What the compiler says of each, which refuses unknown fields, and what the schema says, which knows words and ranges."""
    literals = [f"export const m{number}: IScaledObject = {json.dumps(each)};" for number, each in enumerate(manifests)]
    imported = 'import { IScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";'
    (folder / "manifest.ts").write_text("\n".join([imported, *literals]))
    compiled = subprocess.run(
        ["node", "node_modules/typescript/bin/tsc", "--project", "."], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    ).stdout
    found = ["" for _ in manifests]
    for line in compiled.splitlines():
        if line.startswith("manifest.ts("):
            found[int(line[len("manifest.ts(") :].split(",")[0]) - 2] += line
        else:
            assert line.startswith(" "), line
    for number, each in enumerate(manifests):
        (folder / "manifest.json").write_text(json.dumps(each))
        said = subprocess.run(["node", "validate.js", "manifest.json"], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
        found[number] += said.stdout
    return found


def test_kedas_types_and_schema_accept_it_and_refuse_what_is_wrong(folder: Path) -> None:
    wrong: list[Callable[[Manifest], object]] = [
        lambda spec: spec.update(maxReplicas=4),
        lambda spec: spec["fallback"].update(behavior="never"),
        lambda spec: spec["fallback"].pop("failureThreshold"),
        lambda spec: spec["triggers"][0].update(metadata={"threshold": 4}),
        lambda spec: spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"].update(window=300),
    ]
    broken = [copy.deepcopy(MANIFEST) for _ in wrong]
    for manifest, change in zip(broken, wrong, strict=True):
        change(manifest["spec"])
    accepted, *refused = complaints(folder, [MANIFEST, *broken])
    assert accepted == ""
    assert all(refused), refused
