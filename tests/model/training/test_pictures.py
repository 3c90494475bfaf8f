"""Samples of any data set: truth to the pixel, the data's own classes, the service's own reader."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.miniature import save_map, save_picture, write_json

from proscale.datasets import open_dataset
from proscale.errors import DataError
from proscale.labels import Category
from proscale.training.pictures import TrainingPictures
from proscale.training.sample import compact, merge_label_spaces

NUCLEI = Path(__file__).parents[3] / "data" / "nuclei"


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_nuclei_agree_with_their_own_index(split: str) -> None:
    dataset = open_dataset(NUCLEI, split)
    pictures = TrainingPictures(dataset, dataset.categories)
    annotations = json.loads((NUCLEI / f"panoptic_{split}.json").read_text())["annotations"]
    assert len(pictures) == len(annotations)
    for i in (0, len(pictures) // 2, len(pictures) - 1):
        sample, segments = pictures[i], annotations[i]["segments_info"]
        assert sample.image.shape[:2] == sample.ids.shape
        assert [int((sample.ids == n + 1).sum()) for n in range(len(segments))] == [segment["area"] for segment in segments]
        assert [dataset.categories[c].id for c in sample.classes] == [segment["category_id"] for segment in segments]


def test_the_datas_classes_come_first_as_they_are_and_others_get_free_ids() -> None:
    data = [Category(21, "sky", False), Category(7, "cell", True), Category(0, "ball", True)]
    merged = merge_label_spaces(data, [Category(1, "ball", True), Category(2, "crate", True)])
    assert merged == (*data, Category(22, "crate", True))
    assert merge_label_spaces(data) == tuple(data)
    with pytest.raises(DataError, match="'sky' is a thing in one data source"):
        merge_label_spaces([Category(1, "sky", True)], [Category(1, "sky", False)])
    with pytest.raises(DataError, match=r"two categories named 'sky' \(ids 1 and 2\)"):
        merge_label_spaces([Category(1, "sky", True), Category(2, "sky", True)])


def test_instances_lie_small_on_large_and_crowds_below(tmp_path: Path) -> None:
    save_picture(tmp_path / "train" / "a.png", 20, 20)

    def box(x: int, y: int, side: int) -> list[list[int]]:
        return [[x, y, x + side, y, x + side, y + side, x, y + side]]

    rows = [(5, box(2, 2, 4), 0), (5, box(0, 0, 10), 0), (9, {"size": [20, 20], "counts": [0, 400]}, 1)]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": c, "segmentation": s, "iscrowd": crowd, "area": 1, "bbox": [0, 0, 1, 1]}
        for i, (c, s, crowd) in enumerate(rows)
    ]
    index = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 20}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    write_json(tmp_path / "annotations" / "instances_train.json", index)
    dataset = open_dataset(tmp_path, "train")
    sample = TrainingPictures(dataset, dataset.categories)[0]
    names = [dataset.categories[c].name for c in sample.classes]
    assert [names[sample.ids[y, x] - 1] for y, x in ((3, 3), (8, 8), (15, 15))] == ["dog", "dog", "cat"]
    assert sample.ids[3, 3] != sample.ids[8, 8]
    assert sample.crowd.tolist() == [name == "cat" for name in names]


def test_a_semantic_map_gives_a_segment_per_class_and_void_stays_void(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.png", 8, 8)
    values = np.full((8, 8), 255)
    values[:4], values[4:6] = 2, 0
    save_map(tmp_path / "annotations" / "a.png", values)
    (tmp_path / "classes.txt").write_text("road\nsky\ntree\n")
    dataset = open_dataset(tmp_path)
    sample = TrainingPictures(dataset, dataset.categories)[0]
    assert [dataset.categories[sample.classes[sample.ids[y, 0] - 1]].name for y in (0, 5)] == ["tree", "road"]
    assert not sample.ids[6:].any()
    assert len(sample.classes) == 2


def nuclei_of_two(folder: Path) -> Path:
    """Two pictures of the nuclei validation split as a data set of their own."""
    index = json.loads((NUCLEI / "panoptic_val.json").read_text())
    index["images"], index["annotations"] = index["images"][:2], index["annotations"][:2]
    (folder / "val").mkdir()
    (folder / "panoptic_val").mkdir()
    for image, annotation in zip(index["images"], index["annotations"], strict=True):
        shutil.copy(NUCLEI / "val" / image["file_name"], folder / "val")
        shutil.copy(NUCLEI / "panoptic_val" / annotation["file_name"], folder / "panoptic_val")
    (folder / "panoptic_val.json").write_text(json.dumps(index))
    return folder


def test_a_picture_turned_by_exif_is_trained_upright(tmp_path: Path) -> None:
    dataset = open_dataset(nuclei_of_two(tmp_path), "val")
    path = dataset.pictures[0].path
    upright = TrainingPictures(dataset, dataset.categories)[0]
    turned = Image.fromarray(np.rot90(upright.image).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    turned.save(path, "PNG", exif=exif)  # what a file holds counts, not its name
    again = TrainingPictures(dataset, dataset.categories)[0]
    assert np.array_equal(again.image, upright.image)


def test_contradictory_annotations_name_the_file(tmp_path: Path) -> None:
    dataset = open_dataset(nuclei_of_two(tmp_path), "val")
    path = dataset.pictures[0].path
    Image.open(path).convert("RGB").crop((0, 0, 50, 40)).save(path)
    pictures = TrainingPictures(dataset, dataset.categories)
    with pytest.raises(DataError, match=rf"{path.name} is 40x50 pixels upright, its annotation"):
        pictures[0]
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name} cannot be read"):
        pictures[0]


def test_small_segments_and_crowds_become_void() -> None:
    dataset = open_dataset(NUCLEI, "val")
    sample = TrainingPictures(dataset, dataset.categories)[0]
    areas = np.bincount(sample.ids.ravel())[1:]
    limit = int(np.median(areas)) + 1
    reduced = compact(sample, limit)
    assert len(reduced.classes) == (areas >= limit).sum()
    assert (reduced.ids == 0).sum() == areas[areas < limit].sum()
    assert np.array_equal(np.bincount(reduced.ids.ravel())[1:], areas[areas >= limit])
