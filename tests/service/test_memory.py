"""A server under load needs no more memory than docs/sizing.md says, no more after a while, and no more after its model was replaced."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from proscale_service.settings import Settings

from .chaos import free_port
from .serving import process

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MB = 1_000_000
SIDE = 2000
CLIENTS, ROUNDS = 8, 3


def table() -> dict[str, float]:
    """The figures of the section "Memory, at most": first column -> number."""
    section = (ROOT / "docs/sizing.md").read_text().partition("\n## Memory, at most\n")[2].partition("\n## ")[0]
    return {name: float(value) for name, value in re.findall(r"^\| ([^|]+?) \| ([\d.]+) ", section, re.MULTILINE)}


def resident(pid: int, what: str = "VmRSS") -> int:
    """Bytes. Args: what: VmHWM for the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def large_picture() -> bytes:
    written = io.BytesIO()
    Image.open(ROOT / "examples/nuclei.jpg").resize((SIDE, SIDE)).save(written, "JPEG", quality=85)
    return written.getvalue()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_large_pictures_of_many_clients_stay_within_the_documented_bound() -> None:
    figures, settings, picture = table(), Settings(), large_picture()
    bound = MB * (figures["started, with the embedded model"] + figures["its network at work"])
    bound += settings.decode_threads * figures["each picture that is being decoded"] * SIDE * SIDE + CLIENTS * len(picture)

    def ask(_: int) -> int:
        query = "task=panoptic,instance,semantic&deadline_ms=60000"
        return httpx.post(f"{url}/segment?{query}", content=picture, headers={"content-type": "image/jpeg"}, timeout=120).status_code

    with process("--threads", "1", PROSCALE_LOG_LEVEL="error") as (url, started), ThreadPoolExecutor(CLIENTS) as clients:
        assert resident(started.pid) < MB * figures["started, with the embedded model"]
        after = []
        for _ in range(ROUNDS):
            statuses = list(clients.map(ask, range(CLIENTS)))
            assert set(statuses) <= {200, 429}
            assert statuses.count(200) >= 2
            after.append(resident(started.pid))
        most = resident(started.pid, "VmHWM")
    assert most < bound, f"{most / MB:.0f} MB, {bound / MB:.0f} MB are documented"
    # How many are decoded at a time is chance, and moves it by some percent; a picture kept per request would be a third more.
    assert after[-1] <= 1.1 * after[0], after


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_replacements_of_a_model_stay_within_the_documented_bound() -> None:
    bound, picture, port = MB * table()["ten replacements of it"], (ROOT / "examples/nuclei.jpg").read_bytes(), free_port()
    admin = f"http://127.0.0.1:{port}/admin/models/first"
    settings = {"PROSCALE_MODELS": "first=", "PROSCALE_ADMIN_PORT": str(port), "PROSCALE_LOG_LEVEL": "error"}
    with process("--threads", "1", **settings) as (url, started):
        after = []
        for _ in range(12):
            assert httpx.put(admin, json={"source": ""}, timeout=120).status_code == 200
            assert httpx.post(f"{url}/segment", content=picture, headers={"content-type": "image/jpeg"}, timeout=120).status_code == 200
            after.append(resident(started.pid))
    growth = after[-1] - after[1]  # by the second one two models have been in memory at a time
    assert growth < bound, [round(each / MB) for each in after]
