"""A stand-in for CVAT: the paths that cvat-sdk and cvat-cli use, in memory.

What is sent is read by the SDK's own models, which are generated from CVAT's published schema: a request that it does not know fails.
"""

import io
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from cvat_sdk import models
from cvat_sdk.api_client import Configuration

TASK, TOKEN = 5, "token-of-the-test"
STRICT = Configuration()


class Standin:
    """One task with frames and labels; annotations and functions as they come."""

    def __init__(self, frames: Sequence[bytes], labels: Sequence[tuple[int, str, str]], deleted: Sequence[int] = ()) -> None:
        self.frames, self.labels, self.deleted = list(frames), list(labels), list(deleted)
        self.shapes: list[dict[str, Any]] = []
        self.functions: dict[int, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.completed: dict[str, Any] = {}
        self.failed: dict[str, Any] = {}
        self.broken_frames: set[int] = set()
        self.refuse_uploads = False
        self.uploads = 0
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Status and body: JSON, or bytes."""
        routes: list[tuple[str, str, Any]] = [
            ("GET", r"/api/server/about", self._about),
            ("GET", r"/api/users/self", lambda: (200, {"id": 1, "username": "me", "groups": []})),
            ("GET", rf"/api/tasks/{TASK}", self._task),
            ("GET", r"/api/labels/?", self._labels),
            ("GET", rf"/api/tasks/{TASK}/data/meta/?", self._meta),
            ("GET", rf"/api/tasks/{TASK}/data/?", lambda: self._data(query)),
            ("GET", rf"/api/tasks/{TASK}/annotations/?", lambda: (200, self._annotations())),
            ("PATCH", rf"/api/tasks/{TASK}/annotations/?", lambda: self._upload(query, body)),
            ("POST", r"/api/functions", lambda: self._create(body)),
            ("GET", r"/api/functions/(\d+)", lambda: (200, self.functions[1])),
            ("POST", r"/api/functions/queues/function:1/requests/acquire", lambda: self._acquire(body)),
            ("POST", r"/api/functions/queues/function:1/requests/(\w+)/complete", lambda: self._finish(path, body, self.completed)),
            ("POST", r"/api/functions/queues/function:1/requests/(\w+)/fail", lambda: self._finish(path, body, self.failed)),
            ("POST", r"/api/functions/queues/function:1/requests/(\w+)/update", lambda: (200, {})),
        ]
        for wanted, pattern, route in routes:
            if method == wanted and re.fullmatch(pattern, path):
                return route()
        return 404, {"detail": f"no {method} {path}"}

    def _about(self) -> tuple[int, Any]:
        return 200, {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}

    def _task(self) -> tuple[int, Any]:
        data = {"data": 1, "data_chunk_size": 2, "data_compressed_chunk_type": "imageset", "data_original_chunk_type": "imageset"}
        return 200, data | {
            "id": TASK,
            "name": "task",
            "size": len(self.frames),
            "status": "annotation",
            "mode": "annotation",
            "dimension": "2d",
            "organization": None,
            "organization_id": None,
            "project_id": None,
            "url": f"{self.url}/api/tasks/{TASK}",
            "jobs": {"count": 1, "completed": 0, "validation": 0, "url": f"{self.url}/api/jobs"},
            "labels": {"url": f"{self.url}/api/labels?task_id={TASK}"},
            "updated_date": "2026-01-01T00:00:00Z",
            "created_date": "2026-01-01T00:00:00Z",
        }

    def _labels(self) -> tuple[int, Any]:
        found = [
            {"id": i, "name": name, "type": kind, "attributes": [], "sublabels": [], "color": "#ff0000"} for i, name, kind in self.labels
        ]
        return 200, {"count": len(found), "next": None, "previous": None, "results": found}

    def _meta(self) -> tuple[int, Any]:
        frames = [{"name": f"frame-{i}.png", "width": 96, "height": 64, "related_files": 0} for i in range(len(self.frames))]
        numbers = {"size": len(self.frames), "start_frame": 0, "stop_frame": len(self.frames) - 1, "chunk_size": 2, "image_quality": 70}
        return 200, numbers | {
            "frame_filter": "",
            "frames": frames,
            "deleted_frames": self.deleted,
            "chunks_updated_date": "2026-01-01T00:00:00Z",
        }

    def _data(self, query: dict[str, str]) -> tuple[int, Any]:
        assert query["quality"] == "original", query
        if query["type"] == "frame":
            number = int(query["number"])
            with self.lock:
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
            time.sleep(0.05)
            with self.lock:
                self.in_flight -= 1
            return (500, {"detail": "broken"}) if number in self.broken_frames else (200, self.frames[number])
        import zipfile

        assert query["type"] == "chunk", query
        stored, first = io.BytesIO(), 2 * int(query["number"])
        with zipfile.ZipFile(stored, "w") as archive:
            for i, frame in enumerate(self.frames[first : first + 2]):
                archive.writestr(f"{i:06d}.png", frame)
        return 200, stored.getvalue()

    def _annotations(self) -> dict[str, Any]:
        shapes = [shape | {"id": i, "group": 0, "attributes": [], "elements": []} for i, shape in enumerate(self.shapes)]
        return {"version": 1, "tags": [], "shapes": shapes, "tracks": []}

    def _upload(self, query: dict[str, str], body: Any) -> tuple[int, Any]:
        assert query == {"action": "create"}, query
        self.uploads += 1
        if self.refuse_uploads:
            return 503, {"detail": "no room"}
        models.PatchedLabeledDataRequest._new_from_openapi_data(**body, _configuration=STRICT)
        known = {number for number, _, _ in self.labels}
        assert all(shape["label_id"] in known for shape in body["shapes"]), body
        self.shapes += body["shapes"]
        return 200, self._annotations()

    def _create(self, body: Any) -> tuple[int, Any]:
        assert body["kind"] == "detector"
        assert body["provider"] == "native"
        for label in body["labels_v2"]:
            models.SublabelRequest._new_from_openapi_data(**label, has_parent=False, _configuration=STRICT)
        self.functions[1] = body | {"id": 1}
        return 201, self.functions[1]

    def _acquire(self, body: Any) -> tuple[int, Any]:
        waiting = [each for each in self.requests if each["category"] == body["request_category"]]
        if not waiting:
            return 200, {"ar_assignment": None}
        self.requests.remove(waiting[0])
        return 200, {"ar_assignment": {"ar_id": waiting[0]["id"], "ar_params": waiting[0]["params"]}}

    def _finish(self, path: str, body: Any, where: dict[str, Any]) -> tuple[int, Any]:
        where[path.split("/")[-2]] = body
        return 200, {}


@contextmanager
def running(standin: Standin) -> Iterator[str]:
    """Serve it on a free port; its URL. What a request broke fails the test at the end."""
    broken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            path, _, text = self.path.partition("?")
            path = unquote(path)
            query = dict(each.split("=") for each in text.split("&") if "=" in each)
            query = {name: value for name, value in query.items() if name not in ("org", "page_size", "task_id", "page")}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                assert self.headers.get("authorization") == f"Bearer {TOKEN}" or path == "/api/server/about", dict(self.headers)
                status, answer = standin.answer(self.command, path, query, json.loads(body) if body else None)
            except Exception as error:
                broken.append(f"{self.command} {self.path}: {type(error).__name__}: {error}")
                status, answer = 400, {"detail": str(error)}
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/octet-stream" if isinstance(answer, bytes) else "application/vnd.cvat+json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = handle_one  # noqa: N815  (the names that http.server calls)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield standin.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not broken, broken
