import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proscale_service.schemas import SegmentParameters

from ..engines import ThresholdEngine
from ..pictures import blob, coco_mask, encoded, exif, gradient, png_header, stored_for
from ..serving import PATIENCE_S, Running, http, metric, serving, until

BOX = (10, 20, 30, 25)
PICTURE = encoded(blob(box=BOX))
OCTETS = {"content-type": "application/octet-stream"}


def post(server: Running, content: Any = PICTURE, path: str = "/segment", kind: str = "image/png", **query: Any) -> httpx.Response:
    return http.post(f"{server.url}{path}", content=content, params=query, headers={"content-type": kind})


def in_json(server: Running, path: str = "/segment", **values: Any) -> httpx.Response:
    return http.post(f"{server.url}{path}", json=values)


def base64_of(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


def problem(response: httpx.Response, status: int, kind: str) -> str:
    """The detail of a problem that is as it should be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    assert (body["status"], body["type"]) == (status, f"urn:proscale:problem:{kind}")
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    detail: str = body["detail"]
    return detail


def comparable(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return {name: value for name, value in body.items() if name not in ("id", "timings_ms")}


# The answer


def test_the_answer_has_the_documented_form(server: Running) -> None:
    body = post(server).json()
    assert body.keys() == {"id", "task", "image", "segments", "encoding", "model", "compute", "timings_ms"}
    assert body["task"] == "panoptic"
    assert body["image"] == {"width": 96, "height": 64, "orientation_applied": 1}
    assert body["encoding"] == {"type": "coco_rle", "order": "column_major"}
    assert body["model"] == {"name": "threshold", "encoder": "proscale", "layers": [1, 1, 1]}
    cost = {"flops": 3 * 64 * 96, "baseline_flops": 4 * 64 * 96, "saved_ratio": 0.25, "padded_size": [64, 96]}
    assert body["compute"] == cost | {"batch_size": 1, "degraded": False}
    assert body["timings_ms"].keys() == {"decode", "queue", "preprocess", "infer", "postprocess", "encode"}
    assert (body["timings_ms"]["infer"], body["timings_ms"]["postprocess"]) == (2.0, 3.0)
    first = body["segments"][0]
    assert first.keys() == {"id", "category_id", "label", "isthing", "score", "bbox", "area", "segmentation"}
    assert (first["id"], first["category_id"], first["label"], first["isthing"]) == (1, 7, "blob", True)
    assert (first["bbox"], first["area"]) == (list(BOX), BOX[2] * BOX[3])


@settings(max_examples=40)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_masks_are_what_pycocotools_reads(server: Running, height: int, width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).choice(np.array([0, 250], np.uint8), (height, width, 1)).repeat(3, axis=2)
    masks = {each["label"]: coco_mask(each["segmentation"]) for each in post(server, encoded(picture)).json()["segments"]}
    bright = picture[:, :, 0] > 127
    np.testing.assert_array_equal(masks.get("blob", np.zeros_like(bright)), bright)
    np.testing.assert_array_equal(masks.get("ground", np.zeros_like(bright)), ~bright)


def test_the_three_ways_are_one(server: Running) -> None:
    ways = [
        post(server, threshold=0.25, labels="blob"),
        post(server, kind="application/octet-stream", threshold=0.25, labels="blob"),
        post(server, kind="image/jpeg", threshold=0.25, labels="blob"),  # what the bytes are counts, not what they are called
        post(server, kind="", threshold=0.25, labels="blob"),
        http.post(f"{server.url}/segment", files={"image": ("a.png", PICTURE)}, data={"threshold": "0.25", "labels": "blob"}),
        http.post(f"{server.url}/segment?labels=blob", files={"image": ("a.png", PICTURE)}, data={"threshold": "0.25"}),
        in_json(server, image=base64_of(PICTURE), threshold=0.25, labels=["blob"]),
        in_json(server, "/segment?threshold=0.25", image=base64_of(PICTURE), labels="blob"),
        in_json(server, image={"base64": "data:image/png;base64," + base64_of(PICTURE)["base64"]}, threshold=0.25, labels="blob"),
    ]
    answers = [comparable(way) for way in ways]
    assert [segment["label"] for segment in answers[0]["segments"]] == ["blob"]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("query", ["task=instance,panoptic", "task=instance&task=panoptic"])
def test_several_tasks_give_results_by_task(server: Running, query: str) -> None:
    body = http.post(f"{server.url}/segment?{query}", content=PICTURE, headers=OCTETS).json()
    assert "segments" not in body
    assert "task" not in body
    assert list(body["results"]) == ["instance", "panoptic"]
    assert all(result["segments"][0]["label"] == "blob" for result in body["results"].values())


def test_parameters_reach_the_engine(server: Running) -> None:
    grey = blob()
    grey[grey > 0] = 100
    assert [each["label"] for each in post(server, encoded(grey)).json()["segments"]] == ["ground"]
    assert [each["label"] for each in post(server, encoded(grey), mask_threshold=0.3).json()["segments"]] == ["blob", "ground"]
    assert [each["label"] for each in post(server, labels="GROUND").json()["segments"]] == ["ground"]
    assert len(post(server, max_segments=1).json()["segments"]) == 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_have_the_oriented_size(server: Running, orientation: int) -> None:
    body = post(server, encoded(stored_for(blob(box=BOX), orientation), exif=exif(orientation))).json()
    assert body["image"] == {"width": 96, "height": 64, "orientation_applied": orientation}
    assert body["segments"][0]["bbox"] == list(BOX)
    assert body["segments"][0]["segmentation"]["size"] == [64, 96]


def test_gzip_is_offered(server: Running) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (90, 90, 1), np.uint8).repeat(3, axis=2) * 250
    plain = http.post(f"{server.url}/segment", content=encoded(noise), headers=OCTETS | {"accept-encoding": "identity"})
    packed = http.post(f"{server.url}/segment", content=encoded(noise), headers=OCTETS | {"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["segments"] == plain.json()["segments"]


def test_deadlines(server: Running, engine: ThresholdEngine) -> None:
    engine.gate.clear()
    try:
        started = time.monotonic()
        problem(post(server, deadline_ms=100), 504, "deadline")
        assert time.monotonic() - started < 30
    finally:
        engine.gate.set()


# Bad input


def bad_pictures() -> dict[str, tuple[bytes, int, str]]:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    return {
        "empty": (b"", 400, "malformed"),
        "truncated JPEG": (encoded(noise, "JPEG")[:-400], 422, "undecodable_image"),
        "text called .jpg": (b"this is no picture, whatever its name says\n" * 30, 422, "undecodable_image"),
        "huge PNG of a few kB": (png_header(20000, 20000), 413, "too_many_pixels"),
        "two in one": (encoded(noise, "JPEG") * 2, 422, "undecodable_image"),
        "floating point TIFF": (encoded(Image.new("F", (5, 5)), "TIFF"), 422, "undecodable_image"),
        "30 MB": (bytes(30_000_000), 413, "too_many_bytes"),
    }


@pytest.mark.parametrize("name", bad_pictures())
@pytest.mark.parametrize("way", ["raw", "multipart", "json"])
def test_bad_pictures_are_told_apart_quickly(server: Running, name: str, way: str) -> None:
    data, status, kind = bad_pictures()[name]
    body, headers = data, OCTETS
    if way == "multipart":
        request = httpx.Request("POST", server.url, files={"image": ("picture.jpg", data, "image/jpeg")})
        body, headers = request.read(), {"content-type": request.headers["content-type"]}
    if way == "json":
        body, headers = json.dumps({"image": base64_of(data)}).encode(), {"content-type": "application/json"}
    seconds = []
    for _ in range(3):
        # Processor time, of client and server: a busy machine must not decide this.
        started = time.process_time()
        response = http.post(f"{server.url}/segment", content=body, headers=headers)
        seconds.append(time.process_time() - started)
        problem(response, status, kind.replace("_", "-"))
    assert min(seconds) < 0.25
    assert post(server).status_code == 200


def test_one_pixel_works(server: Running) -> None:
    body = post(server, encoded(blob(1, 1))).json()
    assert body["image"] == {"width": 1, "height": 1, "orientation_applied": 1}
    assert coco_mask(body["segments"][0]["segmentation"]).shape == (1, 1)


def test_a_real_huge_png(server: Running) -> None:
    data = encoded(Image.new("1", (20000, 20000)))
    assert len(data) < 100_000
    problem(post(server, data), 413, "too-many-pixels")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("threshold=7", "threshold: should be less than or equal to 1"),
        ("treshold=0.5", "unknown parameter 'treshold'; known are task, threshold"),
        ("task=panoptic,everything", "'panoptic', 'instance' or 'semantic'"),
        ("threshold=0.5&threshold=0.6", "threshold: given more than once"),
        ("labels=blop", "did you mean 'blob'?"),
        ("labels=blob,zzz", "no label 'zzz'; GET /models lists"),
        ("max_segments=0", "max_segments: should be greater than or equal to 1"),
        ("threshold=nan", "threshold: "),
        ("%ff%fe=1", "unknown parameter"),
    ],
)
def test_bad_parameters_say_what_is_right(server: Running, query: str, words: str) -> None:
    response = http.post(f"{server.url}/segment?{query}", content=PICTURE, headers=OCTETS)
    assert words in problem(response, 422, "invalid-parameter")


def test_parameters_given_in_two_places(server: Running) -> None:
    files = {"image": ("a.png", PICTURE)}
    for response in (
        in_json(server, "/segment?threshold=0.2", image=base64_of(PICTURE), threshold=0.1),
        http.post(f"{server.url}/segment?threshold=0.2", files=files, data={"threshold": "0.1"}),
    ):
        assert "threshold: one value in the query" in problem(response, 422, "invalid-parameter")
    assert http.post(f"{server.url}/segment?threshold=0.2&task=instance", files=files, data={"threshold": "0.2"}).status_code == 200


def test_empty_fields_of_a_form_are_left_out(server: Running) -> None:
    files = {"image": ("a.png", PICTURE)}
    assert http.post(f"{server.url}/segment", files=files, data={"threshold": "", "labels": "", "task": ""}).status_code == 200
    problem(post(server, threshold=""), 422, "invalid-parameter")


def test_two_pictures_in_one_form(server: Running) -> None:
    for count in (2, 5):
        files = [("image", (f"{i}.png", PICTURE)) for i in range(count)]
        problem(http.post(f"{server.url}/segment", files=files), 400, "malformed")


def test_forms_that_are_wrong(server: Running) -> None:
    url = f"{server.url}/segment"
    assert "'image'" in problem(http.post(url, files={"picture": ("a.png", PICTURE)}), 422, "invalid-parameter")
    assert "no picture" in problem(http.post(url, files={"task": (None, "panoptic")}), 400, "malformed")
    assert "text field" in problem(http.post(url, files={"image": (None, "abc")}), 400, "malformed")
    assert "unknown parameter" in problem(
        http.post(url, files={"image": ("a.png", PICTURE)}, data={"x" * 100: "1"}), 422, "invalid-parameter"
    )
    for content, kind in [
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"abc", "multipart/form-data"),
        (b"--x\r\n\r\nabc\r\n--x--", "multipart/form-data; boundary=x"),
    ]:
        problem(http.post(url, content=content, headers={"content-type": kind}), 400, "malformed")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'"image"',
        b"\xff\xfe\x00",
        b'{"image": 3}',
        b'{"image": {"base64": "abc", "url": "http://127.0.0.1/"}}',
        b'{"image": {"url": "http://127.0.0.1/"}}',
        b'{"image": {"base64": "%%%"}}',
        b'{"image": {"base64": 3}}',
        b'{"threshold": 0.5}',
        b"[" * 100_000,
        b'{"image": {"base64": "abcd"}, "threshold": NaN}',
        b'{"image": ' + b"9" * 5000 + b"}",
        b"",
    ],
)
def test_json_that_is_wrong(server: Running, content: bytes) -> None:
    problem(post(server, content, kind="application/json"), 400, "malformed")


def test_json_values_that_are_wrong(server: Running) -> None:
    content = b'{"image": {"base64": "abcd"}, "task": "\\ud800"}'
    assert "task" in problem(post(server, content, kind="application/json"), 422, "invalid-parameter")
    assert "threshold" in problem(in_json(server, image=base64_of(PICTURE), threshold=True), 422, "invalid-parameter")


def test_kinds_that_are_not_taken(server: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "video/mp4", "application/pdf"):
        assert "multipart/form-data" in problem(post(server, kind=kind), 415, "unsupported-media")
    response = http.post(f"{server.url}/segment", content=PICTURE, headers=OCTETS | {"content-encoding": "gzip"})
    problem(response, 415, "unsupported-media")
    problem(http.post(f"{server.url}/segment"), 400, "malformed")


def test_unknown_paths_and_methods_are_problems_too(server: Running) -> None:
    for response, status in [
        (http.get(f"{server.url}/nothing/here"), 404),
        (http.get(f"{server.url}/segment"), 405),
        (http.delete(f"{server.url}/models"), 405),
        (http.get(f"{server.url}/docs/assets/../../secret"), 404),
    ]:
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == status
    assert http.get(f"{server.url}/segment").headers["allow"] == "POST"


@settings(max_examples=60)
@given(data=st.binary(max_size=300), kind=st.sampled_from(["image/png", "application/json", "multipart/form-data; boundary=a", "text/x"]))
def test_no_bytes_make_it_fail(server: Running, data: bytes, kind: str) -> None:
    assert post(server, data, kind=kind).status_code in (200, 400, 413, 415, 422)


# Overload


def test_a_full_house_answers_429_at_once() -> None:
    engine = ThresholdEngine()
    with serving(engine, max_queue=1) as server:
        engine.gate.clear()
        with ThreadPoolExecutor(1) as executor:
            held = executor.submit(post, server)
            until(lambda: server.pipeline.admission.pictures == 1)
            started = time.perf_counter()
            response = post(server)
            assert time.perf_counter() - started < 30
            problem(response, 429, "overloaded")
            assert 1 <= int(response.headers["retry-after"]) <= 60
            address = httpx.URL(server.url)
            with socket.create_connection((address.host, address.port or 80), timeout=PATIENCE_S) as bodiless:
                bodiless.sendall(b"POST /segment HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 999\r\n\r\n")
                assert bodiless.recv(100).startswith(b"HTTP/1.1 429 "), "the body was waited for"
            engine.gate.set()
            assert held.result().status_code == 200
        assert metric(server.url, 'proscale_rejected_total{reason="overloaded"}') == 2
        assert post(server).status_code == 200


def test_pixels_are_bounded_too() -> None:
    with serving(ThresholdEngine(), max_pixels=6144, max_queue_pixels=6144) as server:
        assert post(server).status_code == 200
        with occupied(server, 6000):
            problem(post(server), 429, "overloaded")
        assert post(server).status_code == 200


@contextmanager
def occupied(server: Running, pixels: int) -> Iterator[None]:
    """As if pictures of so many pixels were being worked on."""
    server.pipeline.admission.pixels += pixels
    yield
    server.pipeline.admission.pixels -= pixels


# Several pictures in one request


def test_a_batch_answers_per_picture(server: Running) -> None:
    good, bad = PICTURE, encoded(gradient(), "JPEG")[:200]
    in_form = http.post(
        f"{server.url}/segment/batch", files=[("image", ("a", each)) for each in (good, bad, good)], data={"labels": "blob"}
    )
    as_json = in_json(server, "/segment/batch", images=[base64_of(each) for each in (good, bad, good)], labels=["blob"])
    for response in (in_form, as_json):
        assert response.status_code == 200, response.text
        items = response.json()["items"]
        assert [item["index"] for item in items] == [0, 1, 2]
        assert items[0]["result"]["segments"][0]["bbox"] == list(BOX)
        assert items[1]["error"]["status"] == 422
        assert "result" not in items[1]
        assert items[2]["result"]["segments"] == items[0]["result"]["segments"]


def test_batches_are_bounded(server: Running) -> None:
    files = [("image", ("a", PICTURE)) for _ in range(5)]
    problem(http.post(f"{server.url}/segment/batch", files=files), 400, "malformed")
    problem(in_json(server, "/segment/batch", images=[base64_of(PICTURE)] * 5), 400, "malformed")
    problem(in_json(server, "/segment/batch", images=[]), 400, "malformed")
    problem(in_json(server, "/segment/batch", images="abc"), 400, "malformed")
    problem(in_json(server, "/segment/batch", images=[base64_of(PICTURE)], threshold=7), 422, "invalid-parameter")


# Plans


def test_a_plan_from_a_header_and_from_numbers(server: Running, engine: ThresholdEngine) -> None:
    computed = len(engine.batches)
    by_picture = post(server, encoded(gradient(50, 70))[:200], "/segment/plan").json()
    by_numbers = http.post(f"{server.url}/segment/plan?width=70&height=50").json()
    as_json = in_json(server, "/segment/plan", width=70, height=50).json()
    for body in (by_picture, by_numbers, as_json):
        assert body["image"] == {"width": 70, "height": 50, "orientation_applied": 1}
        assert (body["resized_size"], body["compute"]["padded_size"]) == ([50, 70], [64, 96])
        assert body["compute"]["saved_ratio"] == 0.25
    assert len(engine.batches) == computed


def test_plans_that_are_wrong(server: Running) -> None:
    problem(http.post(f"{server.url}/segment/plan"), 400, "malformed")
    problem(http.post(f"{server.url}/segment/plan?width=70"), 422, "invalid-parameter")
    problem(http.post(f"{server.url}/segment/plan?width=0&height=5"), 422, "invalid-parameter")
    problem(post(server, path="/segment/plan", width=5, height=5), 422, "invalid-parameter")
    problem(post(server, png_header(20000, 20000), "/segment/plan"), 413, "too-many-pixels")


def test_openapi_describes_what_is_taken(server: Running) -> None:
    schema = http.get(f"{server.url}/openapi.json").json()
    described = schema["paths"]["/segment"]["post"]
    assert described["requestBody"]["content"].keys() == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    names = {parameter["name"] for parameter in described["parameters"]}
    assert names == set(SegmentParameters.model_fields)
    assert described["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"].keys() == names | {"image"}
    threshold = next(parameter["schema"] for parameter in described["parameters"] if parameter["name"] == "threshold")
    assert threshold == {"type": "number", "minimum": 0, "maximum": 1}
    assert {"200", "400", "413", "415", "422", "429", "503", "504"} <= described["responses"].keys()

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]} >= references(schema)
