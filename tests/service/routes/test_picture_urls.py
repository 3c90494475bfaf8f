"""Pictures by URL through the whole service: a real server here, a real host of pictures there."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import yaml

from proscale_service.access.keys import hash_of, new_key

from ..pictures import png_header
from ..predictors import ThresholdPredictor
from ..serving import Running, http, metric, serving, until
from .asking import BOX, PICTURE, base64_of, in_json, problem

URLS = {"picture_urls": "http", "picture_url_networks": "127.0.0.2/32", "picture_url_hosts": "127.0.0.2:*,localhost:*"}


class Pictures(BaseHTTPRequestHandler):
    asked: list[str]
    go: Event

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/slow":
            self.go.wait(30)
        body = {"/text": b"no picture", "/huge": png_header(20000, 20000), "/large": bytes(150_000)}.get(self.path, PICTURE)
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[tuple[str, type[Pictures]]]:
    handler = type("Handler", (Pictures,), {"asked": [], "go": Event()})
    server = ThreadingHTTPServer(("127.0.0.2", 0), handler)
    Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
    yield f"http://127.0.0.2:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def fetching() -> Iterator[Running]:
    with serving(ThresholdPredictor(), max_upload_bytes=100_000, max_items=5, **URLS) as running:
        yield running


def test_by_default_urls_are_refused(server: Running, pictures: tuple[str, type[Pictures]]) -> None:
    url, handler = pictures
    handler.asked.clear()
    assert "turned off here" in problem(in_json(server, image={"url": f"{url}/a.png"}), 400, "malformed")
    assert "turned off here" in problem(in_json(server, "/segment/batch", images=[{"url": f"{url}/a.png"}]), 400, "malformed")
    assert handler.asked == []


def test_a_picture_by_url_is_segmented_like_any_other(fetching: Running, pictures: tuple[str, type[Pictures]]) -> None:
    url, _ = pictures
    answer = in_json(fetching, image={"url": f"{url}/a.png"}, threshold=0.1)
    assert answer.status_code == 200, answer.text
    assert tuple(answer.json()["segments"][0]["bbox"]) == BOX
    assert in_json(fetching, "/segment/plan", image={"url": f"{url}/a.png"}).json()["image"]["width"] == 96


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/gone", 422, "unfetchable-picture"),
        ("/text", 422, "undecodable-image"),
        ("/huge", 413, "too-many-pixels"),
        ("/large", 413, "too-many-bytes"),
    ],
)
def test_what_comes_from_a_url_is_judged_like_an_upload(
    fetching: Running, pictures: tuple[str, type[Pictures]], path: str, status: int, kind: str
) -> None:
    problem(in_json(fetching, image={"url": f"{pictures[0]}{path}"}), status, kind)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "file:///etc/passwd", "http://169.254.169.254/", "x" * 9000]
)
def test_the_service_itself_is_out_of_reach(fetching: Running, url: str) -> None:
    """It listens on loopback: its own metrics would be the first thing to read."""
    port = httpx.URL(fetching.url).port
    problem(in_json(fetching, image={"url": url.format(port=port)}), 422, "unfetchable-picture")


def test_in_a_batch_each_url_has_its_own_answer(fetching: Running, pictures: tuple[str, type[Pictures]]) -> None:
    url, _ = pictures
    images = [{"url": f"{url}/a"}, {"url": f"{url}/gone"}, base64_of(PICTURE), {"url": "gopher://x/"}, {"url": f"{url}/b"}]
    items = in_json(fetching, "/segment/batch", images=images).json()["items"]
    told = [item["error"]["type"].rpartition(":")[2] if "error" in item else "answer" for item in items]
    assert told == ["answer", "unfetchable-picture", "answer", "unfetchable-picture", "answer"]
    assert metric(fetching.url, 'proscale_rejected_total{reason="unfetchable_picture"}') >= 2


@pytest.mark.parametrize("picture", [{"url": 3}, {"url": None}, {"url": "http://x", "base64": "AAAA"}, {}, {"uri": "http://x"}, "http://x"])
def test_wrong_forms_of_urls_get_the_right_form(fetching: Running, picture: object) -> None:
    assert '{"url": "https://..."}' in problem(in_json(fetching, image=picture), 400, "malformed")


def test_what_is_fetched_counts_as_held_until_the_answer(pictures: tuple[str, type[Pictures]]) -> None:
    engine = ThresholdPredictor()
    url, _ = pictures
    body = {"image": {"url": f"{url}/a"}}
    size = len(httpx.Request("POST", "http://x", json=body).read())
    with serving(engine, max_upload_bytes=2000, max_buffered_bytes=2000, **URLS) as server:
        assert size + len(PICTURE) < 2000
        padding = {"image": {"url": f"{url}/a" + "a" * (1900 - size)}}
        assert "too many uploads" in problem(in_json(server, **padding), 429, "overloaded")
        assert in_json(server, **body).status_code == 200, "what was held is given back"


def test_a_client_that_leaves_ends_the_fetch(fetching: Running, pictures: tuple[str, type[Pictures]]) -> None:
    url, handler = pictures
    handler.asked.clear()
    gone = 'proscale_requests_total{status="499",task="unknown"}'
    before = metric(fetching.url, gone)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{fetching.url}/segment", json={"image": {"url": f"{url}/slow"}}, timeout=0.5)
    until(lambda: metric(fetching.url, gone) == before + 1, 5)
    handler.go.set()
    assert handler.asked == ["/slow"]


def test_a_slow_host_costs_no_more_than_the_setting(pictures: tuple[str, type[Pictures]]) -> None:
    url, handler = pictures
    handler.go.clear()
    with serving(ThresholdPredictor(), picture_url_timeout_s=0.3, **URLS) as server:
        started = time.monotonic()
        assert "within 0.3 seconds" in problem(in_json(server, image={"url": f"{url}/slow"}), 422, "unfetchable-picture")
        assert time.monotonic() - started < 5
    handler.go.set()


def test_a_key_needs_the_right(tmp_path: Path, pictures: tuple[str, type[Pictures]]) -> None:
    url, handler = pictures
    may, may_not = new_key(), new_key()
    entries = [{"name": "a", "hash": hash_of(may)}, {"name": "b", "hash": hash_of(may_not), "rights": ["segment", "plan"]}]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": entries}))
    with serving(ThresholdPredictor(), keys_file=tmp_path / "keys.yaml", **URLS) as server:
        handler.asked.clear()
        body = {"image": {"url": f"{url}/a"}}
        problem(http.post(f"{server.url}/segment", json=body, headers={"x-api-key": may_not}), 403, "forbidden")
        problem(
            http.post(f"{server.url}/segment/batch", json={"images": [body["image"]]}, headers={"x-api-key": may_not}), 403, "forbidden"
        )
        assert handler.asked == []
        assert http.post(f"{server.url}/segment", json=body, headers={"x-api-key": may}).is_success
        assert http.post(f"{server.url}/segment", json={"image": base64_of(PICTURE)}, headers={"x-api-key": may_not}).is_success
