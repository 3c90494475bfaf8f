"""COCO's two layouts, read as they are downloaded, and every malformed file named with field and remedy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.miniature import PANOPTIC_CATEGORIES, write_coco

from proscale.datasets import VOID, open_dataset
from proscale.errors import DataError
from proscale.rle import decode

DATA = Path(__file__).parents[3] / "data" / "nuclei"


def test_the_nuclei_of_this_repository_are_read() -> None:
    dataset = open_dataset(DATA)
    assert (dataset.layout, dataset.split, dataset.tasks) == ("COCO panoptic", "val", ("panoptic", "instance", "semantic"))
    index = json.loads((DATA / "panoptic_val.json").read_text())
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(1, "nucleus", True), (2, "background", False)]
    assert len(dataset.pictures) == len(index["annotations"])
    picture, row = dataset.pictures[0], index["annotations"][0]
    assert picture.read_panoptic is not None
    panoptic = picture.read_panoptic()
    assert {s.id: (panoptic.ids == s.id).sum() for s in panoptic.segments} == {s["id"]: s["area"] for s in row["segments_info"]}
    assert picture.data()[:2] == b"\xff\xd8"


def test_coco_is_read_as_downloaded(tmp_path: Path) -> None:
    write_coco(tmp_path)
    dataset = open_dataset(tmp_path, "val")
    assert (dataset.layout, dataset.split) == ("COCO panoptic and instances", "val2017")
    assert [(c.id, c.isthing) for c in dataset.categories] == [(1, True), (18, True), (200, False)]
    picture = dataset.pictures[0]
    assert picture.path == tmp_path / "val2017" / "000000000001.jpg"
    assert picture.read_panoptic is not None
    assert picture.read_instances is not None
    assert picture.read_semantic is not None
    crowds = [segment.iscrowd for segment in picture.read_panoptic().segments]
    assert crowds == [False, False, True, False]
    assert set(np.unique(picture.read_semantic())) == {VOID, 1, 18, 200}
    polygon, uncompressed, compressed = picture.read_instances()
    assert (polygon.category_id, polygon.area, uncompressed.iscrowd, compressed.category_id) == (1, 100.0, True, 18)
    square = np.zeros((40, 60), bool)
    square[4:14, 4:14] = True
    assert (decode(polygon.mask) == square).all()
    assert decode(uncompressed.mask)[20:26, 30:40].all()
    assert decode(compressed.mask).sum() == 12 * 8
    # Ids of 257 and more, which need the green channel.
    assert 70000 in [segment.id for segment in picture.read_panoptic().segments]


def test_a_files_content_decides_its_layout(tmp_path: Path) -> None:
    write_coco(tmp_path)
    panoptic = open_dataset(tmp_path / "annotations" / "panoptic_val2017.json")
    assert panoptic.layout == "COCO panoptic"
    assert panoptic.pictures[0].path.is_file()
    instances = open_dataset(tmp_path / "annotations" / "instances_val2017.json")
    assert instances.layout == "COCO instances"
    assert [len(p.read_instances()) for p in instances.pictures if p.read_instances] == [3, 0]  # a picture without objects is one
    (tmp_path / "elsewhere").mkdir()
    assert open_dataset(tmp_path, images=tmp_path / "elsewhere").pictures[0].path.parent == tmp_path / "elsewhere"


def test_pictures_without_annotation_are_noted(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    dataset = open_dataset(tmp_path)
    assert len(dataset.pictures) == 1
    assert dataset.notes == ("1 pictures without annotation are left out",)


def test_the_index_among_the_pictures(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "set" / "valid").mkdir(parents=True)
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "set" / "valid" / "_annotations.coco.json")
    Image.new("RGB", (60, 40)).save(tmp_path / "set" / "valid" / "000000000001.jpg")
    dataset = open_dataset(tmp_path / "set")
    assert dataset.split == "valid"
    assert dataset.pictures[0].path.is_file()


def panoptic_index(**over: Any) -> dict[str, Any]:
    info = {"id": 1, "category_id": 1}
    row = {"image_id": 1, "file_name": "a.png", "segments_info": [info]}
    return {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [row], "categories": PANOPTIC_CATEGORIES} | over


SEGMENT = {"image_id": 1, "file_name": "a.png"}
BROKEN = [
    (panoptic_index(categories=[{"id": 1, "name": "cat"}]), ["categories[0]", "'isthing'", "1 for countable things"]),
    (panoptic_index(images=[{"id": 1}]), ["'file_name'", "image 1"]),
    (panoptic_index(annotations=[SEGMENT]), ["annotations[0]", "'segments_info'"]),
    (panoptic_index(annotations=[{"image_id": 1, "segments_info": []}]), ["annotations[0]", "'file_name'", "PNG"]),
    (panoptic_index(annotations=[{"image_id": 1, "segmentation": [], "category_id": 1}]), ["instances file", "'segments_info'", "Name it"]),
    (panoptic_index(annotations=[SEGMENT | {"segments_info": [{"id": 1, "category_id": 5}]}]), ["category 5", "'categories'"]),
    (panoptic_index(annotations=[SEGMENT | {"segments_info": [{"id": 1, "category_id": 1}] * 2}]), ["lists the id 1 twice"]),
    (panoptic_index(annotations=[SEGMENT | {"image_id": 9, "segments_info": []}]), ["image 9"]),
    (panoptic_index(annotations=[]), ["no annotations"]),
    (panoptic_index(categories=[*PANOPTIC_CATEGORIES, PANOPTIC_CATEGORIES[0]]), ["two categories of the id 1"]),
    ({"images": []}, ["no list 'categories'"]),
    ([], ["'categories'"]),
]


@pytest.mark.parametrize(("values", "parts"), BROKEN)
def test_malformed_panoptic_files(tmp_path: Path, values: Any, parts: list[str]) -> None:
    path = tmp_path / "panoptic_val.json"
    path.write_text(json.dumps(values))
    (tmp_path / "panoptic_val").mkdir()
    with pytest.raises(DataError) as error:
        open_dataset(path)
    for part in [str(path), *parts]:
        assert part in str(error.value)


def instance_index(**annotation: Any) -> dict[str, Any]:
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]} | annotation
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}
    return {"images": [image], "annotations": [{k: v for k, v in row.items() if v is not None}], "categories": [{"id": 1, "name": "cat"}]}


@pytest.mark.parametrize(
    ("annotation", "parts"),
    [
        ({"segmentation": None}, ["annotations[0]", "'segmentation'", "Boxes alone"]),
        ({"segmentation": [[1, 2, 3, 4]]}, ["annotations[0]", "three corners"]),
        ({"segmentation": {"size": [4, 5], "counts": [3, 4]}}, ["cover 7 pixels, not 20"]),
        ({"segmentation": {"size": [5, 4], "counts": [20]}}, ["size is (5, 4)", "(4, 5)"]),
        ({"segmentation": {"counts": [20]}}, ["it has no 'size'"]),
        ({"iscrowd": 3}, ["'iscrowd'", "0 or 1"]),
        ({"category_id": "cat"}, ["'category_id'", "'cat'"]),
        ({"category_id": 8}, ["category 8"]),
    ],
)
def test_malformed_instance_files(tmp_path: Path, annotation: dict[str, Any], parts: list[str]) -> None:
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps(instance_index(**annotation)))
    with pytest.raises(DataError) as error:
        [picture.read_instances() for picture in open_dataset(path).pictures if picture.read_instances]
    for part in [str(path), *parts]:
        assert part in str(error.value)


def test_instances_need_sizes(tmp_path: Path) -> None:
    values = instance_index()
    del values["images"][0]["height"]
    (tmp_path / "instances_val.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="images\\[0\\] has no 'height' and 'width'"):
        open_dataset(tmp_path)


def test_an_unknown_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path)
    for part in ("notes.txt", "panoptic_SPLIT.json", "gtFine", "annotations/validation", "config.json", "classes.txt"):
        assert part in str(error.value)
    with pytest.raises(DataError, match="neither a folder nor a file"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match="neither a folder nor a JSON index"):
        open_dataset(tmp_path / "notes.txt")


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    write_coco(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; it has val2017"):
        open_dataset(tmp_path, "test")
    (tmp_path / "annotations" / "panoptic_val2017").rename(tmp_path / "annotations" / "moved")
    with pytest.raises(DataError, match=r"panoptic_val2017 is missing: the folder of PNGs"):
        open_dataset(tmp_path)
