"""The TypeScript client and Hugging Face's JavaScript client, built and run by node against a live service."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from tests.service.pictures import blob, encoded
from tests.service.predictors import ThresholdPredictor
from tests.service.serving import serving

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/typescript"
BOX = (10, 20, 30, 25)


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """The client's sources in a folder of their own, so that the checkout stays clean."""
    if shutil.which("node") is None or not (CLIENT / "node_modules").is_dir():
        pytest.skip("node or the packages of the TypeScript client are missing; `make node-env` installs the packages")
    folder = tmp_path / "clients/typescript"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "build", "dist"))
    (folder / "node_modules").symlink_to(CLIENT / "node_modules")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/openapi.json", tmp_path / "docs")
    return folder


def run(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cases(count: int = 80) -> list[dict[str, object]]:
    """Masks as pycocotools encodes them; long and empty ones among them."""
    rng = np.random.default_rng(6)
    masks = [rng.random(rng.integers(1, 24, 2)) < rng.random() for _ in range(count)]
    masks += [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.pad(np.ones((1, 3), bool), ((70, 90), (40, 2)))]
    made = []
    for mask in masks:
        flat = mask.T.ravel()
        edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
        runs = np.diff(edges).tolist()
        counts = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        made.append(
            {"size": mask.shape, "counts": counts, "runs": [0, *runs] if flat[0] else runs, "mask": mask.astype(int).ravel().tolist()}
        )
    return made


@pytest.mark.slow
def test_it_is_built_and_works_against_a_live_service(client: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(cases()))
    (tmp_path / "picture.png").write_bytes(encoded(blob(box=BOX)))
    run(client, "npm", "run", "--silent", "build")
    assert {"index.js", "index.d.ts", "rle.js", "client.js"} <= {path.name for path in (client / "dist").iterdir()}
    with serving(ThresholdPredictor()) as server:
        said = run(
            client,
            *("npm", "run", "--silent", "test"),
            RLE_CASES=str(tmp_path / "cases.json"),
            PICTURE=str(tmp_path / "picture.png"),
            SERVICE_URL=server.url,
            BOX=json.dumps(BOX),
            LABELS=json.dumps(["blob", "ground"]),
        )
    assert "fail 0" in said
    assert "pass 10" in said
