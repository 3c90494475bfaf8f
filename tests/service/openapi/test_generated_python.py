"""A client that openapi-python-client makes from the document works against the live service."""

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..routes.asking import BOX, PICTURE
from ..serving import Running, http


@pytest.mark.slow
def test_a_generated_python_client_segments_and_plans(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Path(sys.executable).parent
    (tmp_path / "openapi.json").write_bytes(http.get(f"{server.url}/openapi.json").content)
    command = [str(tools / "openapi-python-client"), "generate", "--path", "openapi.json", "--meta", "none", "--output-path", "made_client"]
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("made_client")
    segment = importlib.import_module("made_client.api.segmentation.segment")
    plan_size = importlib.import_module("made_client.api.segmentation.plan_size")
    models = importlib.import_module("made_client.api.models.models")
    bodies = importlib.import_module("made_client.models")
    types = importlib.import_module("made_client.types")
    with made.Client(base_url=server.url, raise_on_unexpected_status=True) as client:
        assert [each.name for each in models.sync(client=client).models] == ["threshold"]
        planned = plan_size.sync(client=client, width=70, height=50)
        assert (planned.image.width, planned.image.height) == (70, 50)
        picture = types.File(payload=io.BytesIO(PICTURE), file_name="picture.png", mime_type="image/png")
        answer = segment.sync(client=client, body=bodies.SegmentFilesBody(image=picture, threshold=0.1))
        assert tuple(answer.segments[0].bbox) == BOX
        assert segment.sync(client=client, body=bodies.SegmentFilesBody(image=picture, threshold=7)).status == 422
