"""A client that openapi-typescript makes from the document is accepted by the TypeScript compiler and works against the live service."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ..routes.asking import BOX, PICTURE
from ..serving import Running, http

HERE = Path(__file__).parent / "typescript"
PACKAGES = HERE / "node_modules"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_generated_typescript_client_segments_and_plans(server: Running, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not PACKAGES.is_dir():
        pytest.skip("node or the TypeScript packages are missing; `make node-env` installs the packages")
    for name in ("package.json", "tsconfig.json", "client.ts"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    (tmp_path / "openapi.json").write_bytes(http.get(f"{server.url}/openapi.json").content)
    (tmp_path / "picture.png").write_bytes(PICTURE)

    run(tmp_path, node, "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "schema.d.ts")
    run(tmp_path, node, "node_modules/typescript/bin/tsc", "--project", ".")
    said = json.loads(run(tmp_path, node, "client.js", server.url, "picture.png"))

    box = list(BOX)
    assert said["models"] == ["threshold"]
    assert said["planned"] == {"width": 70, "height": 50, "orientation_applied": 1}
    assert said["form"] == [box]
    assert said["json"] == [box]
    assert said["bytes"] == [box]
    assert said["batch"] == [[box], [box]]
    assert said["refused"] == 422
    assert "threshold" in said["detail"]
    assert said["ready"] == "ready"
