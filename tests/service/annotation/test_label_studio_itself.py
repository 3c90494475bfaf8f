"""Label Studio itself, from PyPI in an environment of its own: it takes our predictions, gives them back, and asks the ML backend."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from proscale_service.annotation.label_studio import label_studio_app
from proscale_service.annotation.label_studio_tasks import Source, Wanted
from proscale_service.client import AsyncClient

from ..serving import Running, until
from .serving_apps import served
from .test_label_studio import BRIGHT, INLINE, config, predict

ROOT = Path(__file__).parents[3]
ENVIRONMENT = ROOT / ".venv-label-studio"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
TAGS = {"brush": "BrushLabels", "polygon": "PolygonLabels", "bitmask": "BitmaskLabels"}
PATIENCE_S = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROSCALE_", "PYTHON"))}
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        # The backend listens on the same machine.
        "SSRF_PROTECTION_ENABLED": "false",
        "ML_BLOCK_LOCAL_IP": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "DJANGO_DB": "sqlite",
    }
    return clean | settings


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (ENVIRONMENT / "done").exists():
        pytest.skip("Label Studio is not installed: `make label-studio-env` does it")
    folder = tmp_path_factory.mktemp("label-studio") / "data"
    shutil.copytree(ENVIRONMENT / "data", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(ENVIRONMENT / "bin/label-studio"), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    user = ["--username", "a@b.cd", "--password", "secret-of-the-test", "--user-token", TOKEN, "--log-level", "ERROR"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *user], env=environment(folder), cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            return httpx.get(f"{url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    try:
        until(up, PATIENCE_S)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_predictions_there_and_back(label_studio: str, server: Running, tmp_path: Path) -> None:
    with served(label_studio_app(AsyncClient(server.url), Source(label_studio, TOKEN), Wanted(task="instance"))) as backend:
        kinds = {
            kind: {
                "label_config": config(tag, '<Label value="blob"/>'),
                "prediction": predict(backend, INLINE, label_config=config(tag, '<Label value="blob"/>')).json()["results"][0][0],
            }
            for kind, tag in TAGS.items()
        }
        (tmp_path / "given.json").write_text(json.dumps({"picture": INLINE, "kinds": kinds}))
        program = [str(ENVIRONMENT / "bin/python"), str(Path(__file__).with_name("label_studio_client.py"))]
        done = subprocess.run(
            [*program, label_studio, TOKEN, backend, str(tmp_path / "given.json")],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    read = json.loads(done.stdout.splitlines()[-1])
    assert read["valid"] == dict.fromkeys(TAGS, True)
    for kind, each in kinds.items():
        stored = read["imported"][kind]
        assert stored["result"] == each["prediction"]["result"], kind
        assert stored["score"] == pytest.approx(each["prediction"]["score"])
        assert stored["model_version"] == "threshold"
    assert read["brush_pixels"] == np.flatnonzero(BRIGHT).tolist()
    # The middle one of three tasks cannot be fetched; the others have their predictions.
    assert read["by_backend"] == [1, 0, 1]
