"""The first command that a user types, and the examples of the README, against the real service and the embedded model."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proscale.results import RLE
from proscale.rle import decode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo printed, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder


def test_the_demo_shows_segments_of_two_pictures_and_stops_the_service(demo: tuple[str, Path]) -> None:
    text, _ = demo
    assert re.search(r"nuclei\.jpg, 512x383: \d+ segments", text)
    assert re.search(r"scene\.png, 384x384: \d+ segments", text)
    assert re.search(r"^ +\d+  nucleus +0\.\d\d +\d+", text, re.MULTILINE)
    assert "GFLOPs" in text
    assert text.rstrip().endswith("service stopped")


@pytest.mark.parametrize(("prefix", "picture"), [("", "nuclei.jpg"), ("scene-", "scene.png")])
def test_the_demo_writes_masks_and_an_overlay(demo: tuple[str, Path], prefix: str, picture: str) -> None:
    _, folder = demo
    answer = json.loads((folder / f"{prefix}result.json").read_text())
    image = np.asarray(Image.open(ROOT / "examples" / picture).convert("RGB"))
    masks = [decode(RLE(tuple(s["segmentation"]["size"]), s["segmentation"]["counts"])) for s in answer["segments"]]
    assert len(masks) > 1
    assert np.sum(masks, axis=0).max() == 1
    overlay = np.asarray(Image.open(folder / f"{prefix}overlay.png"))
    covered = np.any(masks, axis=0)
    assert overlay.shape == image.shape
    assert (overlay != image).any(-1)[covered].mean() > 0.9


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The service as the README starts it, at a free port."""
    command = [str(Path(sys.executable).with_name("proscale")), "serve", "--port", "0", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("Serving on ").strip()
        process.terminate()
    assert process.returncode == 0


def test_the_python_example_prints_what_the_readme_says(service: str) -> None:
    code, printed = re.search(r"```python\n(.*?)```\n+```\n(.*?)```", README, re.DOTALL).groups()
    code = code.replace("http://127.0.0.1:8000", service)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    # Scores may differ in the last digit between processors.
    assert re.sub(r"[\d.]+", "N", done.stdout) == re.sub(r"[\d.]+", "N", printed)
    for ours, documented in zip(re.findall(r"[\d.]+", done.stdout), re.findall(r"[\d.]+", printed), strict=True):
        assert float(ours) == pytest.approx(float(documented), rel=0.02, abs=0.02)


def test_the_curl_examples_work(service: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    lines = re.findall(r"^curl .*http://127\.0\.0\.1:8000.*$", README, re.MULTILINE)
    assert len(lines) >= 3
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", service).replace("curl ", "curl -sSf ", 1)
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        written = re.search(r" -o (\S+)", line)
        assert (tmp_path / written[1]).stat().st_size if written else done.stdout


def test_the_answer_in_the_readme_has_the_fields_of_a_real_one(service: str) -> None:
    documented = json.loads(re.search(r"```json\n(.*?)```", README, re.DOTALL).group(1))
    line = f"curl -sSf -F image=@examples/nuclei.jpg {service}/segment"
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    real = json.loads(subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, timeout=120, check=True).stdout)
    assert _shape(documented) == _shape(real)


def _shape(value: object) -> object:
    """Names and types, without values; of a list only the first element."""
    if isinstance(value, dict):
        return {name: _shape(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
