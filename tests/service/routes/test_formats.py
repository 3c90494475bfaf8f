"""Answers in other formats over real HTTP; what the files hold is tested in tests/model/formats."""

import io
import json
import zipfile
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pandas
import pytest
import shapely
from PIL import Image

from proscale.formats.files import FORMATS
from proscale_service.requests import FormatName

from ..pictures import blob, coco_mask, encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, http, serving
from .asking import BOX, PICTURE, post, problem

BRIGHT = np.asarray(Image.open(io.BytesIO(PICTURE)).convert("L")) > 127


def ask(server: Running, picture: bytes = PICTURE, accept: str = "*/*", **query: object) -> Any:
    return http.post(f"{server.url}/segment", params=query, content=picture, headers={"content-type": "image/png", "accept": accept})


def files(answer: Any) -> dict[str, bytes]:
    assert answer.headers["content-type"] == "application/zip", answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_format_has_a_name_in_the_schema_and_a_line_in_the_documentation() -> None:
    names = {"json", *FORMATS}
    assert set(get_args(FormatName)) == names
    table = (Path(__file__).parents[3] / "docs/http.md").read_text().split("## Other formats")[1].split("\n## ")[0]
    listed = {
        name.strip("` ")
        for line in table.splitlines()
        if line.startswith("| `") and "what it is" not in line
        for name in line.split("|")[1].split(",")
    }
    assert listed == names


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_every_format_answers_or_says_why_not(server: Running, name: str, task: str) -> None:
    answer = ask(server, task=task, format=name)
    if task not in FORMATS[name].tasks:
        assert f"not for {task}" in problem(answer, 422, "invalid-parameter")
    elif answer.headers["content-type"] == "application/zip":
        assert "answer.json" in files(answer)
        assert len(files(answer)) > 1
    else:
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == FORMATS[name].media_type
        assert task in answer.headers["content-disposition"]


def test_geojson_label_map_and_table_hold_the_masks_of_the_json_answer(server: Running) -> None:
    segment = next(each for each in post(server).json()["segments"] if each["label"] == "blob")
    mask = coco_mask(segment["segmentation"]).astype(bool)
    assert (mask == BRIGHT).all()
    feature = next(f for f in ask(server, format="geojson").json()["features"] if f["properties"]["classification"]["name"] == "blob")
    assert shapely.geometry.shape(feature["geometry"]).area == mask.sum()
    labels = np.asarray(Image.open(io.BytesIO(ask(server, format="semantic_png").content)))
    assert ((labels == 7) == mask).all()
    sure = np.asarray(Image.open(io.BytesIO(ask(server, task="semantic", format="confidence_png").content)))
    np.testing.assert_array_equal(sure, np.where(mask, 200, 100))
    ids = np.asarray(Image.open(io.BytesIO(ask(server, format="ids_tiff").content)))
    assert ((ids == segment["id"]) == mask).all()
    table = pandas.read_csv(io.BytesIO(ask(server, format="csv").content)).set_index("label")
    assert table.loc["blob", "area"] == mask.sum()
    assert table.loc["blob", "mean_intensity"] > 127
    assert tuple(table.loc["blob", ["bbox_x", "bbox_y", "bbox_width", "bbox_height"]]) == BOX


def test_several_formats_and_tasks_are_one_archive(server: Running) -> None:
    found = files(ask(server, task="panoptic,instance", format=["geojson", "csv"]))
    assert set(found) == {"answer.json", "panoptic.geojson", "instance.geojson", "panoptic.csv", "instance.csv"}
    assert json.loads(found["answer.json"])["results"].keys() == {"panoptic", "instance"}
    twice = files(ask(server, format="coco_panoptic,ids_png"))
    assert {"panoptic-ids.png", "panoptic-coco.png", "panoptic-coco.json"} <= set(twice)
    (annotation,) = json.loads(twice["panoptic-coco.json"])["annotations"]
    assert annotation["file_name"] == "panoptic-coco.png"


def test_several_files_come_as_multipart_where_accept_says_so(server: Running) -> None:
    asked = {"task": "panoptic,instance", "format": ["ids_png", "csv"]}
    archive = files(ask(server, **asked))
    answer = ask(server, accept="multipart/mixed, application/zip;q=0.5", **asked)
    message = BytesParser(policy=policy.HTTP).parsebytes(_with_head(answer))
    assert message.get_content_type() == "multipart/mixed"
    parts = {part.get_filename(): part for part in message.iter_parts()}
    assert parts.keys() == archive.keys()
    assert not message.defects
    for name, part in parts.items():
        data = part.get_payload(decode=True)
        assert int(part["content-length"]) == len(data)
        if name != "answer.json":
            assert data == archive[name]
    assert parts["panoptic-ids.png"].get_content_type() == "image/png"
    one = BytesParser(policy=policy.HTTP).parsebytes(_with_head(ask(server, accept="multipart/mixed", format="geojson")))
    (_, single) = one.iter_parts()
    assert json.loads(single.get_payload(decode=True))["type"] == "FeatureCollection"
    assert ask(server, accept="application/zip, multipart/mixed", **asked).headers["content-type"] == "application/zip"


def _with_head(answer: Any) -> bytes:
    return f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content


def test_a_format_that_a_task_cannot_have_is_refused_before_anything_is_computed(server: Running, engine: ThresholdPredictor) -> None:
    calls = engine.calls
    detail = problem(ask(server, task="panoptic,instance", format="csv,coco_panoptic"), 422, "invalid-parameter")
    assert "coco_panoptic is for task=panoptic or semantic, not for instance" in detail
    assert engine.calls == calls


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/geo+json", "application/geo+json"),
        ("text/csv;q=0.5, image/webp", "image/webp"),
        ("image/png;q=0, text/csv", "text/csv"),
        ("application/json, image/png", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
        ("image/avif, */*", "application/json"),
        ("image/png;q=x", "application/json"),
        ("", "application/json"),
    ],
)
def test_accept_chooses_where_no_format_is_named(server: Running, accept: str, kind: str) -> None:
    assert ask(server, accept=accept).headers["content-type"].partition(";")[0] == kind
    assert ask(server, accept=accept, format="json").headers["content-type"] == "application/json"


def test_an_overlay_shows_the_oriented_picture(server: Running) -> None:
    overlay = np.asarray(Image.open(io.BytesIO(ask(server, format="overlay_png", opacity=0, outlines=False, names=False).content)))
    np.testing.assert_array_equal(overlay, np.asarray(Image.open(io.BytesIO(PICTURE)).convert("RGB")))
    painted = np.asarray(Image.open(io.BytesIO(ask(server, format="overlay_png").content)))
    assert (painted != overlay).any()


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"format": "svg"}, "geojson"),
        ({"format": "geojson", "simplify": -1}, "simplify"),
        ({"format": "geojson", "affine": "1,2,3"}, "affine"),
        ({"format": "geojson", "affine": "1,1,0,1,1,0"}, "affine"),
        ({"opacity": 2}, "opacity"),
        ({"min_area": -1}, "min_area"),
        ({"deduplicate": 0}, "deduplicate"),
        ({"merge_labels": "car"}, "merge_labels"),
        ({"merge_labels": "a=blob,b=blob"}, "one label only"),
    ],
)
def test_wrong_options_are_422(server: Running, query: dict[str, object], word: str) -> None:
    assert word in problem(ask(server, **query), 422, "invalid-parameter")


def test_cleaning_is_reported_and_off_by_default(server: Running) -> None:
    picture = blob()
    picture[1, 1] = 250
    data = encoded(picture)
    assert "cleaning" not in post(server, data).json()
    plain = {each["label"]: each["area"] for each in post(server, data).json()["segments"]}
    body = post(server, data, largest_piece="true", merge_labels="thing=blob").json()
    done = {"dropped_small": 0, "dropped_duplicates": 0, "filled_pixels": 0, "removed_pixels": 1, "merged_segments": 1}
    assert body["cleaning"] == done
    assert {each["label"]: each["area"] for each in body["segments"]}["thing"] == plain["blob"] - 1
    filled = post(server, data, fill_holes=1, labels="ground").json()
    assert filled["cleaning"]["filled_pixels"] == 1
    assert post(server, data, min_area=10**6).json()["segments"] == []


@pytest.mark.parametrize("path", ["/segment", "/segment/batch"])
def test_a_merged_label_that_the_model_lacks_is_refused_before_anything_is_computed(
    server: Running, engine: ThresholdPredictor, path: str
) -> None:
    calls = engine.calls
    answer = http.post(f"{server.url}{path}", params={"merge_labels": "thing=blobb"}, files=[("image", ("a.png", PICTURE))])
    assert problem(answer, 422, "invalid-parameter") == "merge_labels: the model has no label 'blobb'; did you mean 'blob'?"
    assert engine.calls == calls


def test_merging_in_a_semantic_map(server: Running) -> None:
    body = post(server, task="semantic", merge_labels="ground=ground|blob").json()
    assert body["cleaning"]["merged_segments"] == 1  # the ground's own label is no new one
    (segment,) = body["segments"]
    assert (segment["label"], segment["area"]) == ("ground", BRIGHT.size)
    labels = np.asarray(Image.open(io.BytesIO(ask(server, task="semantic", format="semantic_png", merge_labels="ground=blob").content)))
    assert (labels == segment["category_id"]).all()


def test_cleaning_in_a_batch(server: Running) -> None:
    answer = http.post(f"{server.url}/segment/batch?min_area=1000000", files=[("image", ("a.png", PICTURE)), ("image", ("b.png", PICTURE))])
    assert [item["result"]["cleaning"]["dropped_small"] for item in answer.json()["items"]] == [2, 2]
    assert "format" in problem(
        http.post(f"{server.url}/segment/batch?format=csv", files=[("image", ("a.png", PICTURE))]), 422, "invalid-parameter"
    )


def test_an_answer_over_the_limit_says_what_to_ask_for_instead() -> None:
    with serving(ThresholdPredictor(), max_answer_bytes=100) as server:
        assert "overlay_webp" in problem(ask(server, format="overlay_png"), 413, "answer-too-large")
        assert ask(server).status_code == 200


@pytest.mark.slow
def test_an_overlay_of_40_megapixels_over_the_limit_is_an_error_in_words_and_costs_nobody_else() -> None:
    picture = np.zeros((5000, 8000), np.uint8)
    picture[1000:4000, 2000:5000] = 250
    with serving(ThresholdPredictor(), max_answer_bytes=100_000) as server:
        body = {"content": encoded(picture, "JPEG"), "headers": {"content-type": "image/jpeg"}, "timeout": 300}
        detail = problem(httpx.post(f"{server.url}/segment?format=overlay_png", **body), 413, "answer-too-large")
        assert "overlay_webp" in detail
        assert "100000" in detail
        assert int(detail.split("the answer has ")[1].split()[0]) > 100_000
        assert ask(server, format="overlay_png").status_code == 200
