"""Masks as arrays, polygons and Detections; other formats; pictures by URL; every parameter; without torch."""

import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from proscale_service.client import AsyncClient, Client, FetchedByServer, FileOptions, Files, SegmentOptions
from proscale_service.errors import InvalidParameter, MalformedRequest
from proscale_service.requests import PictureParameters

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, serving

BOX = (10, 20, 30, 25)


def with_a_hole() -> np.ndarray:
    picture = blob(box=BOX)
    picture[30:35, 20:25] = 0
    return picture


def test_polygons_are_exact(server: Running) -> None:
    with Client(server.url) as client:
        (segment,) = client.segment(with_a_hole(), labels="blob").segments
    (polygon,) = segment.polygons
    shape = shapely.Polygon(polygon.exterior, polygon.holes)
    rows, columns = np.mgrid[:64, :96]
    np.testing.assert_array_equal(shapely.contains_xy(shape, columns + 0.5, rows + 0.5), segment.mask)


def test_detections_are_supervisions(server: Running) -> None:
    with Client(server.url) as client:
        answer = client.segment(with_a_hole(), task="instance,semantic")
        none = client.segment(np.zeros((8, 8), np.uint8), labels="blob")
    detections = answer.detections("instance")
    assert list(detections.data["class_name"]) == ["blob", "ground"]
    assert detections.xyxy[0].tolist() == [BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]]
    np.testing.assert_array_equal(detections.mask[0], with_a_hole()[:, :, 0] > 127)
    assert detections.class_id.tolist() == [7, 9]
    assert detections.area[0] == answer.results["instance"][0].area
    assert len(none.detections()) == 0
    with pytest.raises(ValueError, match="several tasks"):
        answer.detections()


def test_every_parameter_of_the_service_has_its_option() -> None:
    ours = SegmentOptions.__annotations__.keys() | FileOptions.__annotations__.keys()
    assert ours - {"request_id"} == PictureParameters.model_fields.keys() - {"format"}


async def test_files_of_other_formats(server: Running, tmp_path: Path) -> None:
    with Client(server.url) as client:
        one = client.files(with_a_hole(), "geojson", labels="blob", affine=(2, 0, 100, 0, 2, 0))
        several = client.files(with_a_hole(), ["json", "masks", "csv"], min_area=3, task="panoptic")
        with pytest.raises(InvalidParameter, match="svg"):
            client.files(with_a_hole(), "svg")
        with pytest.raises(InvalidParameter, match="coco_panoptic is for task=panoptic or semantic, not for instance"):
            client.files(with_a_hole(), "coco_panoptic", task="instance")
        with pytest.raises(TypeError, match="colour"):
            client.files(with_a_hole(), "csv", **{"colour": "red"})
    assert list(one) == ["panoptic.geojson"]
    assert one.answer is None
    assert shapely.geometry.shape(json.loads(one["panoptic.geojson"])["features"][0]["geometry"]).bounds == (120, 40, 180, 90)
    assert several.answer is not None
    assert several.answer.raw["cleaning"]["dropped_small"] == 0
    written = several.save(tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in written} == set(several)
    assert len([name for name in several if name.startswith("panoptic-masks/")]) == len(several.answer.segments)
    async with AsyncClient(server.url) as asking:
        assert (await asking.files(with_a_hole(), "csv"))["panoptic.csv"] == several["panoptic.csv"]


def test_a_server_that_names_files_outside_of_the_folder_writes_nothing(tmp_path: Path) -> None:
    for name in ("../x", "/x", "a/../../x", "a\\..\\x"):
        with pytest.raises(ValueError, match="leads out"):
            Files({"good.txt": b"", name: b""}).save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


async def test_the_asynchronous_client_answers_alike(server: Running) -> None:
    async with AsyncClient(server.url) as asking:
        with Client(server.url) as client:
            given = {"task": "semantic", "priority": "interactive", "request_id": "mine"}
            ours, theirs = await asking.segment(with_a_hole(), **given), client.segment(with_a_hole(), **given)
            assert ours.results == theirs.results
            assert ours.raw["id"] == "mine"
            assert (await asking.plan(50, 70))["compute"] == client.plan(50, 70)["compute"]
            assert await asking.models() == client.models()
        assert await asking.ready()
    async with AsyncClient("http://127.0.0.1:1") as nobody:
        assert not await nobody.ready()


@pytest.fixture
def pictures_by_url() -> Iterator[str]:
    """A server that holds one picture, and refuses whoever sends a key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert "authorization" not in self.headers
            self.send_response(200 if self.path == "/blob.png" else 404)
            self.end_headers()
            self.wfile.write(encoded(with_a_hole()))

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def test_pictures_by_url(pictures_by_url: str, server: Running) -> None:
    with Client(server.url, api_key="secret") as client:
        assert client.segment(f"{pictures_by_url}/blob.png", labels="blob").segments[0].bbox == BOX
        for url in (f"{pictures_by_url}/nothing.png", "http://127.0.0.1:1/x", "http://[/x"):
            with pytest.raises(OSError, match="cannot be fetched"):
                client.segment(url)
        with pytest.raises(MalformedRequest, match="by URL are turned off here"):
            client.segment(FetchedByServer(f"{pictures_by_url}/blob.png"))


def test_pictures_that_the_server_fetches(pictures_by_url: str) -> None:
    host = pictures_by_url.removeprefix("http://")
    settings = {"picture_urls": "http", "picture_url_hosts": host, "picture_url_networks": "127.0.0.0/8"}
    with serving(ThresholdPredictor(), **settings) as server, Client(server.url) as client:
        assert client.segment(FetchedByServer(f"{pictures_by_url}/blob.png"), labels="blob").segments[0].bbox == BOX


@pytest.mark.slow
def test_what_the_client_imports_is_what_the_base_installs() -> None:
    code = """
import sys
before = set(sys.modules)
import proscale_service.client
from proscale_service.client import AsyncClient, Client
for name in set(sys.modules) - before:
    if "site-packages" in (getattr(sys.modules[name], "__file__", "") or ""):
        print(name.partition(".")[0])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(done.stdout.split())
    assert {"httpx", "numpy", "PIL", "tqdm"} <= imported
    assert not imported & {"torch", "fastapi", "pydantic", "uvicorn", "tritonclient", "shapely", "supervision", "prometheus_client", "yaml"}


def test_archives_of_the_service_are_read_in_memory(server: Running) -> None:
    with Client(server.url) as client:
        files = client.files(with_a_hole(), ["ids_png", "ids_tiff"])
    np.testing.assert_array_equal(*(np.asarray(Image.open(io.BytesIO(files[f"panoptic-ids.{kind}"]))) for kind in ("png", "tif")))
    assert zipfile.is_zipfile(io.BytesIO(files["answer.json"])) is False
