import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proscale_service.requests import PictureParameters

from ..pictures import blob, coco_mask, encoded, exif, stored_for
from ..predictors import ThresholdPredictor
from ..serving import Running, http
from .asking import BOX, OCTETS, PICTURE, base64_of, comparable, in_json, post, problem


def test_the_answer_has_the_documented_form(server: Running) -> None:
    body = post(server).json()
    assert body.keys() == {"id", "task", "image", "segments", "encoding", "model", "compute", "timings_ms"}
    assert body["task"] == "panoptic"
    assert body["image"] == {"width": 96, "height": 64, "orientation_applied": 1}
    assert body["encoding"] == {"type": "coco_rle", "order": "column_major"}
    assert body["model"] == {"name": "threshold", "encoder": "proscale", "layers": [1, 1, 1]}
    cost = {"flops": 3 * 64 * 96, "baseline_flops": 4 * 64 * 96, "saved_ratio": 0.25, "padded_size": [64, 96]}
    assert body["compute"].pop("baseline").startswith("Mask2Former with 6 encoder layers")
    assert body["compute"] == cost | {"batch_size": 1, "degraded": False}
    assert body["timings_ms"].keys() == {"decode", "queue", "preprocess", "infer", "postprocess", "encode"}
    assert (body["timings_ms"]["infer"], body["timings_ms"]["postprocess"]) == (2.0, 3.0)
    first = body["segments"][0]
    assert first.keys() == {"id", "category_id", "label", "isthing", "score", "bbox", "area", "segmentation"}
    assert (first["id"], first["category_id"], first["label"], first["isthing"]) == (1, 7, "blob", True)
    assert (first["bbox"], first["area"]) == (list(BOX), BOX[2] * BOX[3])


@pytest.mark.slow
@settings(max_examples=40)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_masks_are_what_pycocotools_reads(server: Running, height: int, width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).choice(np.array([0, 250], np.uint8), (height, width, 1)).repeat(3, axis=2)
    masks = {each["label"]: coco_mask(each["segmentation"]) for each in post(server, encoded(picture)).json()["segments"]}
    bright = picture[:, :, 0] > 127
    np.testing.assert_array_equal(masks.get("blob", np.zeros_like(bright)), bright)
    np.testing.assert_array_equal(masks.get("ground", np.zeros_like(bright)), ~bright)


def test_the_three_ways_give_the_same_answer(server: Running) -> None:
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


def test_deadlines(server: Running, engine: ThresholdPredictor) -> None:
    engine.gate.clear()
    try:
        started = time.monotonic()
        problem(post(server, deadline_ms=100), 504, "deadline")
        assert time.monotonic() - started < 30
    finally:
        engine.gate.set()


def test_openapi_describes_every_kind_of_body(server: Running) -> None:
    schema = http.get(f"{server.url}/openapi.json").json()
    described = schema["paths"]["/segment"]["post"]
    assert described["requestBody"]["content"].keys() == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    names = {parameter["name"] for parameter in described["parameters"]}
    assert names == set(PictureParameters.model_fields)
    assert described["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"].keys() == names | {"image"}
    threshold = next(parameter["schema"] for parameter in described["parameters"] if parameter["name"] == "threshold")
    assert threshold == {"type": "number", "minimum": 0, "maximum": 1}
    assert {"200", "400", "413", "415", "422", "429", "503", "504"} <= described["responses"].keys()
    assert schema["components"]["schemas"]["Label"]["enum"] == ["blob", "ground"]

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]} >= references(schema)
