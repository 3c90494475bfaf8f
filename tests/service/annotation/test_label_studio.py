"""The ML backend as Label Studio asks it, over real HTTP, in front of a real service."""

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
import shapely

from proscale_service.annotation.label_config import ConfigError, read_config
from proscale_service.annotation.label_studio import label_studio_app
from proscale_service.annotation.label_studio_tasks import Source, Wanted
from proscale_service.client import NO_RETRIES, AsyncClient

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, serving
from .serving_apps import served
from .test_shapes import unpacked

BOX = (10, 20, 30, 25)
PICTURE = encoded(blob(box=BOX))
BRIGHT = blob(box=BOX)[:, :, 0] > 127
INLINE = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def config(tag: str = "BrushLabels", labels: str = '<Label value="Blob"/>', image: str = '<Image name="image" value="$picture"/>') -> str:
    return f'<View>{image}<{tag} name="label" toName="image">{labels}</{tag}></View>'


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """Stands for Label Studio: uploads behind a token, which it makes of a refresh token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("authorization") in ("Token legacy", "Bearer access") and self.path == "/data/upload/1/a.png"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(PICTURE if allowed else b"")

        def do_POST(self) -> None:
            good = self.path == "/api/token/refresh" and b"head.body.sign" in self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(b'{"access": "access"}')

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def backend(server: Running, pictures: str) -> Iterator[str]:
    with served(label_studio_app(AsyncClient(server.url), Source(pictures, "head.body.sign"), Wanted(task="instance"))) as url:
        yield url


def predict(backend: str, *places: Any, label_config: str | None = None) -> Any:
    tasks = [{"id": i, "data": {"picture": place}} for i, place in enumerate(places)]
    body = {"tasks": tasks, "label_config": label_config or config(), "project": "1.1", "params": {"context": None}}
    return httpx.post(f"{backend}/predict", json=body, timeout=60)


def test_brush_regions(backend: str) -> None:
    answer = predict(backend, INLINE).json()
    ((prediction,),) = answer["results"]
    (region,) = prediction["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("label", "image", "brushlabels")
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (96, 64, 0)
    assert region["value"]["brushlabels"] == ["Blob"]
    np.testing.assert_array_equal(unpacked(region["value"]["rle"]).reshape(64, 96, 4)[..., 3] > 0, BRIGHT)
    assert prediction["model_version"] == answer["model_version"] == "threshold"
    assert prediction["score"] == pytest.approx(BRIGHT.mean(), abs=1e-4)


def test_polygon_and_bitmask_regions(backend: str) -> None:
    (((polygon,),),) = (
        [each["result"] for each in one] for one in predict(backend, INLINE, label_config=config("PolygonLabels")).json()["results"]
    )
    points = np.array(polygon["value"]["points"]) * (0.96, 0.64)
    assert shapely.Polygon(points).equals(shapely.box(10, 20, 40, 45))
    assert polygon["value"]["closed"]
    assert polygon["value"]["polygonlabels"] == ["Blob"]
    (((bitmask,),),) = (
        [each["result"] for each in one] for one in predict(backend, INLINE, label_config=config("BitmaskLabels")).json()["results"]
    )
    assert bitmask["value"]["imageDataURL"].startswith("data:image/png;base64,")
    assert bitmask["value"]["bitmasklabels"] == ["Blob"]


def test_a_failed_task_does_not_affect_the_others(backend: str, pictures: str) -> None:
    places = [INLINE, "data:image/png;base64,!", None, "/data/upload/1/a.png", f"{pictures}/nothing.png", "s3://bucket/a.png", INLINE]
    answer = predict(backend, *places)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [len(each) for each in results] == [1, 0, 0, 1, 0, 0, 1]
    assert {each["task"]: each["error"].split(" ")[0] for each in answer.json()["errors"]}.keys() == {1, 2, 4, 5}
    assert "presigned" in answer.json()["errors"][3]["error"]
    assert results[0] == results[3]


def test_uploads_are_fetched_with_either_kind_of_key(server: Running, pictures: str) -> None:
    for key, found in (("legacy", 1), ("wrong", 0), (None, 0)):
        with served(label_studio_app(AsyncClient(server.url), Source(pictures, key), Wanted())) as url:
            answer = predict(url, "/data/upload/1/a.png").json()
            assert len(answer["results"][0]) == found
            if key == "wrong":
                assert "is --label-studio-key right?" in answer["errors"][0]["error"]
    with served(label_studio_app(AsyncClient(server.url), Source(None, None), Wanted())) as url:
        assert "--label-studio-url" in predict(url, "/data/upload/1/a.png").json()["errors"][0]["error"]


def test_a_late_result_is_returned_at_the_next_request() -> None:
    slow = ThresholdPredictor(delay_s=0.6)
    with serving(slow) as service, served(label_studio_app(AsyncClient(service.url), Source(None, None), Wanted(within_s=0.2))) as url:
        first = predict(url, INLINE).json()
        assert first["results"] == [[]]
        assert "ask again" in first["errors"][0]["error"]
        time.sleep(1.2)
        assert len(predict(url, INLINE).json()["results"][0]) == 1
        assert slow.calls == 1


def test_setup_health_and_webhook(backend: str) -> None:
    assert httpx.post(f"{backend}/setup", json={"project": "1.1", "schema": config()}, timeout=30).json() == {"model_version": "threshold"}
    assert httpx.get(f"{backend}/health", timeout=30).json()["status"] == "UP"
    assert httpx.post(f"{backend}/validate", json={"config": config()}, timeout=30).status_code == 200
    assert httpx.post(f"{backend}/webhook", json={"action": "PROJECT_UPDATED"}, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (config("RectangleLabels"), "no tag BrushLabels or PolygonLabels or BitmaskLabels; for example <View>"),
        (config(labels='<Label value="Car"/>'), "none of the labels of BrushLabels ('Car') is one of the model's (blob, ground)"),
        (config(image=""), "names no picture"),
        (config(image='<Text name="image" value="$t"/>'), "names no picture"),
        ("<View>", "not XML"),
        ("", "must be the labelling configuration"),
        (7, "must be the labelling configuration"),
    ],
)
def test_a_configuration_without_a_matching_tag_is_a_clear_error(backend: str, schema: Any, words: str) -> None:
    for path, body in (("setup", {"schema": schema}), ("predict", {"tasks": [], "label_config": schema}), ("validate", {"config": schema})):
        answer = httpx.post(f"{backend}/{path}", json=body, timeout=30)
        assert answer.status_code == 400
        assert answer.json().keys() == {"error"}
        assert words in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tasks": 7}', b'{"tasks": [1]}'])
def test_other_bad_requests(backend: str, body: bytes) -> None:
    answer = httpx.post(f"{backend}/predict", content=body, timeout=30)
    assert (answer.status_code, set(answer.json())) == (400, {"error"})


def test_a_service_that_is_not_there() -> None:
    with served(label_studio_app(AsyncClient("http://127.0.0.1:1", retries=NO_RETRIES), Source(None, None), Wanted())) as url:
        assert httpx.get(f"{url}/health").json()["status"] == "DOWN"
        answer = predict(url, INLINE)
        assert (answer.status_code, "does not answer" in answer.json()["error"]) == (503, True)


def test_labels_by_name_or_by_what_they_predict_and_the_preferred_tag() -> None:
    both = (
        '<View><Image name="i" value="$x"/><BrushLabels name="b" toName="i"><Label value="BLOB"/></BrushLabels>'
        '<polygonlabels name="p" toName="i"><Label value="Cell" predicted_values="blob, ground"/></polygonlabels></View>'
    )
    brush = read_config(both, ["blob", "ground"])
    assert (brush.kind, brush.from_name, brush.data_key, brush.labels) == ("brush", "b", "x", {"blob": "BLOB"})
    polygon = read_config(both, ["blob", "ground"], "polygon")
    assert (polygon.from_name, polygon.labels) == ("p", {"blob": "Cell", "ground": "Cell"})
    with pytest.raises(ConfigError, match="no tag BitmaskLabels"):
        read_config(both, ["blob"], "bitmask")
