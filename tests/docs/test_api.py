"""The pages of the Python interface are built without a warning, and show what the modules export."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "docs/api.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr
    page = (tmp_path / "proscale/predictor.html").read_text()
    assert "class" in page
    assert 'id="Predictor.segment"' in page
    assert (tmp_path / "proscale_service/client.html").stat().st_size > 10_000
