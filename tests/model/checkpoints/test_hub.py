"""`hf:` sources, against a stand-in of the hub on the loopback."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.model.checkpoints.test_convert import MASK2FORMER_SMALL, detectron2_file

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.model_folder import load_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.write_folders import write_transformers

REPOSITORY, COMMIT = "someone/small-coco-panoptic", "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[3]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as fetching needs: what a repository holds at a revision, and its files."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        type(self).requests.append(f"{self.command} {path}")
        revisions = {"main", "v1", COMMIT}
        api, resolve = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/"
        if path == api or (path.startswith(f"{api}/revision/") and path.rsplit("/", 1)[1] in revisions):
            siblings = [{"rfilename": name} for name in self.files]
            self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "private": False}).encode(), {}, body)
        elif path.startswith(f"{api}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.files.items()]
            self._send(json.dumps(tree).encode(), {}, body)
        elif path.startswith(f"{api}/"):
            self._send(b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, body, 404)
        elif path.startswith(resolve) and (name := path.removeprefix(resolve).split("/", 1)[1]) in self.files:
            data = self.files[name]
            self._send(data, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, body)
        else:
            self._send(b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, body, 404)

    def _send(self, data: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    source = detectron2_file(tmp_path, MASK2FORMER_SMALL)
    write_transformers(convert(str(source), Request()), tmp_path / "repository")
    Hub.files = {path.name: path.read_bytes() for path in (tmp_path / "repository").iterdir()}
    Hub.files |= {"README.md": b"not wanted", "evil.pkl": b"not wanted"}
    Hub.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


UNFETCHABLE = {
    "hf:someone/else": "the hub has no model 'someone/else', or it is private",
    f"hf:{REPOSITORY}@v9": "has no revision 'v9'",
    "hf:justaname": "is not hf:OWNER/NAME or hf:OWNER/NAME@revision",
    "hf:a/../../etc": "is not hf:OWNER/NAME",
}
NOT_CACHED = "cannot be fetched: the hub does not answer, and the cache does not have it"
CONVERT_EACH = """
import sys
import click
from proscale.checkpoints.command import convert
out, *sources = sys.argv[1:]
for source in sources:
    try:
        convert.main([source, out, "--force"], standalone_mode=False)
    except click.ClickException as error:
        print("refused:", error.message)
"""


def convert_each(endpoint: str, home: Path, out: Path, *sources: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "")
    hub_settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | proxies | hub_settings | {"PYTHONPATH": str(ROOT / "model")}
    command = [sys.executable, "-c", CONVERT_EACH, str(out), *sources]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def refusals(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("refused:")]


@pytest.mark.slow
def test_a_checkpoint_of_the_hub_is_downloaded_recognised_and_written(hub: str, tmp_path: Path) -> None:
    out, source = tmp_path / "out", f"hf:{REPOSITORY}@v1"
    done = convert_each(hub, tmp_path / "home", out, source, source, *UNFETCHABLE)
    assert done.returncode == 0, done.stderr
    assert "%|" in done.stderr, "no progress was shown"
    origin = load_provenance(out)
    assert origin is not None
    assert origin.name == f"hf:{REPOSITORY}@{COMMIT}"
    assert origin.sha256 == hashlib.sha256(Hub.files["model.safetensors"]).hexdigest()
    config, categories, _ = load_folder(out)
    assert config.classes == 133
    assert categories[-1].id == 200
    # What is needed, and nothing else; the second time from the cache.
    fetched = sorted(request.rsplit("/", 1)[1] for request in Hub.requests if request.startswith("GET") and "/resolve/" in request)
    assert fetched == ["config.json", "model.safetensors", "preprocessor_config.json", "proscale.json"]
    for line, message in zip(refusals(done), UNFETCHABLE.values(), strict=True):
        assert message in line
    nobody = "http://127.0.0.1:9"
    offline = convert_each(nobody, tmp_path / "home", tmp_path / "again", source, "hf:someone/else")
    assert offline.returncode == 0, offline.stderr
    assert load_provenance(tmp_path / "again") == origin
    assert len(refusals(offline)) == 1
    assert NOT_CACHED in refusals(offline)[0]
