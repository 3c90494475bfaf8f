"""Reading a data set, and saying what is wrong with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proscale.labels import Category
from proscale.training.coco_panoptic import CocoPanoptic, read_categories
from proscale.training.sample import DataError, compact, merge_label_spaces

NUCLEI = Path(__file__).parents[3] / "data" / "nuclei"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of the nuclei validation split as a data set of their own."""
    index = json.loads((NUCLEI / "panoptic_val.json").read_text())
    index["images"], index["annotations"] = index["images"][:2], index["annotations"][:2]
    (tmp_path / "val").mkdir()
    (tmp_path / "panoptic_val").mkdir()
    for image, annotation in zip(index["images"], index["annotations"], strict=True):
        shutil.copy(NUCLEI / "val" / image["file_name"], tmp_path / "val")
        shutil.copy(NUCLEI / "panoptic_val" / annotation["file_name"], tmp_path / "panoptic_val")
    (tmp_path / "panoptic_val.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_nuclei_agree_with_their_own_index(split: str) -> None:
    categories = read_categories(NUCLEI, split)
    dataset = CocoPanoptic(NUCLEI, split, categories)
    assert len(dataset) == {"train": 500, "val": 60}[split]
    for i in (0, len(dataset) // 2, len(dataset) - 1):
        sample, segments = dataset[i], dataset.annotations[i]["segments_info"]
        assert sample.image.shape[:2] == sample.ids.shape
        assert [int((sample.ids == n + 1).sum()) for n in range(len(segments))] == [segment["area"] for segment in segments]
        assert [categories[c].id for c in sample.classes] == [segment["category_id"] for segment in segments]


def test_classes_are_numbered_in_the_callers_label_space(folder: Path) -> None:
    categories = merge_label_spaces([Category(9, "cell wall", True)], read_categories(folder, "val"))
    assert [category.name for category in categories] == ["cell wall", "nucleus", "background"]
    assert set(CocoPanoptic(folder, "val", categories)[0].classes.tolist()) == {1, 2}


def test_a_name_cannot_be_thing_and_stuff() -> None:
    with pytest.raises(DataError, match="'sky' is a thing in one data source"):
        merge_label_spaces([Category(1, "sky", True)], [Category(1, "sky", False)])


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; expected FOLDER/train/"):
        CocoPanoptic(tmp_path / "nowhere", "train", ())
    with pytest.raises(DataError, match=r"train is missing; expected FOLDER/train/"):
        CocoPanoptic(folder, "train", ())
    with pytest.raises(DataError, match="categories that the model does not know: nucleus, background"):
        CocoPanoptic(folder, "val", ())
    dataset = CocoPanoptic(folder, "val", read_categories(folder, "val"))
    next((folder / "val").iterdir()).unlink()
    with pytest.raises(DataError, match="cannot read picture"):
        _ = [dataset[i] for i in range(2)]


def test_contradictions_are_named(folder: Path) -> None:
    dataset = CocoPanoptic(folder, "val", read_categories(folder, "val"))
    path = folder / "panoptic_val" / dataset.annotations[0]["file_name"]
    ids = np.asarray(Image.open(path).convert("RGB")).copy()
    ids[0, 0] = (77, 77, 77)
    Image.fromarray(ids).save(path)
    with pytest.raises(DataError, match="ids that its annotation does not list"):
        dataset[0]
    Image.fromarray(ids[:-1]).save(path)
    with pytest.raises(DataError, match="differ in size"):
        dataset[0]


def test_small_segments_and_crowds_become_void(folder: Path) -> None:
    sample = CocoPanoptic(folder, "val", read_categories(folder, "val"))[0]
    areas = np.bincount(sample.ids.ravel())[1:]
    limit = int(np.median(areas)) + 1
    reduced = compact(sample, limit)
    assert len(reduced.classes) == (areas >= limit).sum()
    assert (reduced.ids == 0).sum() == areas[areas < limit].sum()
    assert np.array_equal(np.bincount(reduced.ids.ravel())[1:], areas[areas >= limit])
