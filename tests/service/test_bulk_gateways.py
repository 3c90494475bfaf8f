"""`proscale bulk --service`: rows as from a model in the actor, gateways that are busy, away or wrong."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.model.bulk.shared import assert_same_rows

from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.rows import STOP
from proscale.bulk.segmenter import PictureSegmenter
from proscale.errors import DataError
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale_service.bulk_gateways import Gateways, gateway_work

from .serving import Running, serving

OPTIONS = SegmentationOptions(("panoptic", "instance"), threshold=0.0, max_segments=5)
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def service(small_predictor: Predictor) -> Iterator[Running]:
    with serving(small_predictor, max_pixels=200_000) as running:
        yield running


class Answering:
    """A server that gives every POST one answer, and counts them."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes = b"{}") -> None:
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests += 1
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Answering":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def columns(tmp_path: Path, picture: np.ndarray) -> dict[str, Any]:
    for number in range(5):
        Image.fromarray(np.roll(picture, 7 * number, 1)).save(tmp_path / f"{number}.png")
    Image.fromarray(picture.repeat(3, 0).repeat(3, 1)).save(tmp_path / "large.png")
    (tmp_path / "broken.jpg").write_text("no picture")
    names = [*(f"{number}.png" for number in range(5)), "large.png", "broken.jpg", "gone.png"]
    return {"path": np.array([str(tmp_path / name) for name in names], object)}


@contextmanager
def actor(work: Work) -> Iterator[Any]:
    with closing(work.actor(*work.arguments)) as made:
        yield made


def rows_of(work: Work, columns: dict[str, Any]) -> list[dict[str, Any]]:
    with actor(work) as made:
        rows: list[dict[str, Any]] = made(columns).to_pylist()
        return rows


def with_urls(work: Work, *urls: str, patience_s: float = 60.0) -> Work:
    """A job whose gateways are others than at its beginning."""
    gateways = work.arguments[0]
    assert isinstance(gateways, Gateways)
    return replace(work, arguments=(replace(gateways, urls=urls, patience_s=patience_s), *work.arguments[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("tile", ["off", "96,16"])
def test_rows_are_those_of_a_model_in_the_actor(service: Running, columns: dict[str, Any], small_checkpoint: Path, tile: str) -> None:
    job = BulkOptions(segmentation=OPTIONS, tile=tile, output_format="coco")
    rows = rows_of(gateway_work(service.url, job), columns)
    local = PictureSegmenter(RuntimeConfig(checkpoint=small_checkpoint), OPTIONS, tile, "full", 200_000, "coco")
    expected = local(columns).to_pylist()
    assert_same_rows(rows, expected)
    assert rows[5]["windows"] > 1 or tile == "off"
    assert [row["error"] is None for row in rows] == [True] * 6 + [False] * 2


def test_a_busy_gateway_is_left_alone_and_one_that_is_away_is_passed_over(service: Running, columns: dict[str, Any]) -> None:
    work = gateway_work(f"{service.url}/, {service.url}", BulkOptions(segmentation=OPTIONS), concurrency=2)
    assert work.arguments[0].urls == (service.url,), "each once"
    expected = rows_of(work, columns)
    with Answering(429, {"retry-after": "600"}) as busy, actor(with_urls(work, busy.url, NOBODY, service.url)) as segmenter:
        assert_same_rows(segmenter(columns).to_pylist(), expected)
        assert_same_rows(segmenter(columns).to_pylist(), expected)
        assert busy.requests <= 2, "no more than were in flight when it first said when to come back"


def test_pictures_are_sent_again_when_a_gateway_takes_them(service: Running, columns: dict[str, Any]) -> None:
    work = gateway_work(service.url, BulkOptions(segmentation=OPTIONS), concurrency=2)
    expected = rows_of(work, columns)
    with Answering(503, {"retry-after": "0"}) as loading, actor(with_urls(work, loading.url)) as segmenter, actor(work) as other:
        (gateway,) = segmenter._gateways
        first, answered = gateway.client, other._gateways[0].client

        def loaded() -> None:
            gateway.client = answered

        threading.Timer(0.5, loaded).start()
        assert_same_rows(segmenter(columns).to_pylist(), expected)
        assert loading.requests > 0
        first.close()


def test_a_job_ends_when_nobody_takes_pictures(service: Running, columns: dict[str, Any]) -> None:
    work = gateway_work(service.url, BulkOptions(segmentation=OPTIONS))
    rows = rows_of(with_urls(work, NOBODY, patience_s=0.2), columns)
    assert rows[-1]["path"] == STOP
    assert f"no service takes pictures for 0.2 s: {NOBODY}" in rows[-1]["error"]
    assert [row["path"] for row in rows[:-1]] == [str(columns["path"][-1])], "what fails by itself has its row, the rest are left"
    with Answering(401, {}) as closed:
        rows = rows_of(with_urls(work, closed.url), columns)
    assert (rows[-1]["path"], "refuses" in rows[-1]["error"]) == (STOP, True)


def test_a_gateway_that_breaks_off_is_not_asked_twice(service: Running, columns: dict[str, Any]) -> None:
    work = gateway_work(service.url, BulkOptions(segmentation=OPTIONS), concurrency=1)
    with Answering(200, {"content-length": "1000"}) as broken:
        rows = rows_of(with_urls(work, broken.url), {"path": columns["path"][:2]})
        assert broken.requests == 2
    assert all("no answer from the service" in row["error"] for row in rows)


@pytest.mark.slow
def test_mistakes_are_said_before_a_job_begins(service: Running) -> None:
    with pytest.raises(DataError, match=r"no answer from http://127\.0\.0\.1:1"):
        gateway_work(NOBODY, BulkOptions())
    with pytest.raises(DataError, match="unicorn"):
        gateway_work(service.url, BulkOptions(segmentation=SegmentationOptions(labels=("unicorn",))))
    with pytest.raises(DataError, match="nothing_of_ours"):
        gateway_work(service.url, BulkOptions(), model="nothing_of_ours")
    with pytest.raises(DataError, match="names no URL"):
        gateway_work(" , ", BulkOptions())
    with Answering(200, {}) as other, pytest.raises(DataError, match="not as a service of this kind"):
        gateway_work(other.url, BulkOptions())
