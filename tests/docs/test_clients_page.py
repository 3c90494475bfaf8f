"""The programs of docs/clients.md run as they stand, against a real server at the address that they name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.service.predictors import ThresholdPredictor
from tests.service.serving import serving

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=["one", "many", "asyncio"])
def test_programs_run(program: str, tmp_path: Path) -> None:
    with serving(ThresholdPredictor()) as server:
        text = program.replace("http://127.0.0.1:8000", server.url).replace("out/", f"{tmp_path}/out/")
        done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "files.save" in program:
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"answer.json", "panoptic.geojson", "panoptic-overlay.webp"}
