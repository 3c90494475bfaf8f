"""Cityscapes, ADE20K, Mapillary Vistas and folders of PNGs, with the rules of each."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.miniature import save_ids, save_map, save_picture, write_json

from proscale.datasets import VOID, AnnotatedPicture, PanopticMap, open_dataset
from proscale.errors import DataError
from proscale.rle import measure

STEM = "frankfurt_000000_000294"


def panoptic_of(picture: AnnotatedPicture) -> PanopticMap:
    assert picture.read_panoptic is not None
    return picture.read_panoptic()


def semantic_of(picture: AnnotatedPicture) -> np.ndarray:
    assert picture.read_semantic is not None
    return picture.read_semantic()


def write_cityscapes(root: Path) -> None:
    # Columns: road (7), ego vehicle (1, not evaluated), car 0, car 1, a group of cars, traffic light 3, caravan (29, not evaluated).
    instance_ids = np.repeat([[7, 1, 26000, 26001, 26, 19, 29000]], 4, 0)
    label_ids = np.where(instance_ids >= 1000, instance_ids // 1000, instance_ids)
    folder = root / "gtFine" / "val" / "frankfurt"
    save_map(folder / f"{STEM}_gtFine_instanceIds.png", instance_ids, np.uint16)
    save_map(folder / f"{STEM}_gtFine_labelIds.png", label_ids)
    save_picture(root / "leftImg8bit" / "val" / "frankfurt" / f"{STEM}_leftImg8bit.png", 4, 7)


def test_cityscapes_is_read(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.split, len(dataset.categories)) == ("Cityscapes gtFine", "val", 19)
    picture = dataset.pictures[0]
    assert (picture.id, picture.path.is_file()) == (STEM, True)
    panoptic = panoptic_of(picture)
    assert panoptic.ids[0].tolist() == [7, 0, 26000, 26001, 26, 19, 0]
    found = {segment.id: (segment.category_id, segment.iscrowd) for segment in panoptic.segments}
    assert found == {7: (7, False), 19: (19, False), 26: (26, True), 26000: (26, False), 26001: (26, False)}
    assert semantic_of(picture)[0].tolist() == [7, VOID, 26, 26, 26, 19, VOID]
    assert picture.read_instances is not None
    assert [(i.category_id, i.iscrowd) for i in picture.read_instances()] == [(26, True), (26, False), (26, False)]


def test_the_official_cityscapes_panoptic_json_is_read(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    index = tmp_path / "gtFine" / "cityscapes_panoptic_val.json"
    segments = [{"id": 7, "category_id": 7, "area": 4, "iscrowd": 0}, {"id": 26000, "category_id": 26, "area": 4, "iscrowd": 0}]
    image = {"id": STEM, "width": 7, "height": 4, "file_name": f"{STEM}_gtFine_leftImg8bit.png"}
    categories = [{"id": 7, "name": "road", "isthing": 0}, {"id": 26, "name": "car", "isthing": 1}]
    annotation = {"image_id": STEM, "file_name": f"{STEM}_gtFine_panoptic.png", "segments_info": segments}
    write_json(index, {"images": [image], "annotations": [annotation], "categories": categories})
    save_ids(index.with_suffix("") / annotation["file_name"], np.repeat([[7, 0, 26000, 0, 0, 0, 0]], 4, 0))  # type: ignore[operator]
    for dataset in (open_dataset(tmp_path), open_dataset(index)):
        assert dataset.layout == "Cityscapes panoptic"
        assert dataset.pictures[0].path.is_file()
        assert semantic_of(dataset.pictures[0])[0].tolist() == [7, VOID, 26, VOID, VOID, VOID, VOID]


def test_cityscapes_without_label_ids_is_refused(tmp_path: Path) -> None:
    save_map(tmp_path / "gtFine" / "val" / "frankfurt" / f"{STEM}_gtFine_labelTrainIds.png", np.zeros((2, 2), int))
    with pytest.raises(DataError, match=r"no \*_gtFine_labelIds.png .* only gtFine_labelTrainIds.png"):
        open_dataset(tmp_path)


def test_ade20k_is_read(tmp_path: Path) -> None:
    save_map(tmp_path / "annotations" / "validation" / "ADE_val_00000001.png", np.array([[0, 1, 2, 150]]))
    save_picture(tmp_path / "images" / "validation" / "ADE_val_00000001.jpg", 1, 4)
    dataset = open_dataset(tmp_path, "val")
    assert (dataset.layout, dataset.tasks, len(dataset.categories)) == ("ADE20K scene parsing", ("semantic",), 150)
    assert semantic_of(dataset.pictures[0]).tolist() == [[VOID, 0, 1, 149]]
    save_map(tmp_path / "annotations" / "validation" / "ADE_val_00000001.png", np.array([[151]]))
    with pytest.raises(DataError, match=r"ADE_val_00000001.png holds 151, but there are 150 classes"):
        semantic_of(dataset.pictures[0])
    (tmp_path / "images" / "validation" / "ADE_val_00000001.jpg").unlink()
    with pytest.raises(DataError, match=r"no picture for ADE_val_00000001.png"):
        open_dataset(tmp_path)


def test_ade20k_objects(tmp_path: Path) -> None:
    """Class 4 of those with objects is person, id 12; wall is 0, door 14 and an object's class, sky 2."""
    name = "ADE_val_00000001"
    save_picture(tmp_path / "images" / "validation" / f"{name}.jpg", 1, 6)
    objects = np.zeros((1, 6, 3), int)
    objects[0, 1], objects[0, 2:4], objects[0, 5] = (4, 1, 0), (4, 2, 0), (1, 3, 0)
    save_map(tmp_path / "annotations_instance" / "validation" / f"{name}.png", objects)
    picture = open_dataset(tmp_path, "val").pictures[0]  # the objects alone
    assert (picture.read_panoptic, picture.read_semantic) == (None, None)
    save_map(tmp_path / "annotations" / "validation" / f"{name}.png", np.array([[1, 1, 13, 13, 15, 3]]))
    dataset = open_dataset(tmp_path, "val")
    assert dataset.tasks == ("panoptic", "instance", "semantic")
    panoptic = panoptic_of(dataset.pictures[0])
    assert panoptic.ids[0].tolist() == [1, 1001, 1002, 1002, 0, 1003]
    assert [(s.id, s.category_id, s.area) for s in panoptic.segments] == [
        (1, 0, 2),
        (3, 2, 1),
        (1001, 12, None),
        (1002, 12, None),
        (1003, 7, None),
    ]
    assert semantic_of(dataset.pictures[0]).tolist() == [[0, 0, 12, 12, 14, 2]]
    assert dataset.pictures[0].read_instances is not None
    found = dataset.pictures[0].read_instances()
    assert [(instance.category_id, measure(instance.mask)[0]) for instance in found] == [(12, 1), (12, 2), (7, 1)]
    for wrong, message in (((9, 2, 0), "the object 2 the classes 4 and 9"), ((101, 7, 0), "the object 7 the class 101")):
        changed = objects.copy()
        changed[0, 3] = wrong
        save_map(tmp_path / "annotations_instance" / "validation" / f"{name}.png", changed)
        with pytest.raises(DataError, match=message):
            panoptic_of(dataset.pictures[0])
    save_map(tmp_path / "annotations_instance" / "validation" / f"{name}.png", objects[..., 0])
    with pytest.raises(DataError, match="has one number per pixel"):
        panoptic_of(dataset.pictures[0])
    save_map(tmp_path / "annotations_instance" / "validation" / f"{name}.png", objects[:, :4])
    with pytest.raises(DataError, match=r"is 6x1 pixels, .* 4x1"):
        panoptic_of(dataset.pictures[0])
    (tmp_path / "annotations" / "validation" / f"{name}.png").rename(tmp_path / "annotations" / "validation" / "ADE_val_00000002.png")
    with pytest.raises(DataError, match=r"annotations.validation has no ADE_val_00000001.png"):
        open_dataset(tmp_path, "val")


def test_ade20ks_panoptic_files_are_read(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "validation" / "ADE_val_00000001.jpg", 1, 2)
    save_map(tmp_path / "annotations" / "validation" / "ADE_val_00000001.png", np.array([[1, 13]]))
    save_ids(tmp_path / "ade20k_panoptic_val" / "ADE_val_00000001.png", np.array([[256, 12]]))
    segments = [{"id": 256, "category_id": 0}, {"id": 12, "category_id": 12}]
    categories = [{"id": 0, "name": "wall", "isthing": 0}, {"id": 12, "name": "person", "isthing": 1}]
    write_json(
        tmp_path / "ade20k_panoptic_val.json",
        {
            "images": [{"id": "ADE_val_00000001", "file_name": "ADE_val_00000001.jpg"}],
            "annotations": [{"image_id": "ADE_val_00000001", "file_name": "ADE_val_00000001.png", "segments_info": segments}],
            "categories": categories,
        },
    )
    # The instances file counts its 100 classes anew: people are 12 in one and 2 in the other.
    image = {"id": 1, "file_name": "ADE_val_00000001.jpg", "height": 1, "width": 2}
    dataset = open_dataset(tmp_path)
    assert dataset.pictures[0].path.is_file()
    assert semantic_of(dataset.pictures[0]).tolist() == [[0, 12]]
    row = {"id": 1, "image_id": "ADE_val_00000001", "category_id": 2, "segmentation": {"size": [1, 2], "counts": [1, 1]}}
    write_json(
        tmp_path / "ade20k_instance_val.json",
        {"images": [image | {"id": "ADE_val_00000001"}], "annotations": [row], "categories": [{"id": 2, "name": "person, individual"}]},
    )
    picture = open_dataset(tmp_path).pictures[0]
    assert picture.read_instances is not None
    assert [instance.category_id for instance in picture.read_instances()] == [12]


@pytest.mark.parametrize(("config", "below"), [("config.json", ""), ("config_v2.0.json", "v2.0")])
def test_mapillary_vistas_is_read(tmp_path: Path, config: str, below: str) -> None:
    labels = [("Bird", True, True), ("Road", False, True), ("Unlabeled", False, False)]
    rows = [{"readable": name, "instances": things, "evaluate": evaluate} for name, things, evaluate in labels]
    write_json(tmp_path / config, {"labels": rows})
    base = tmp_path / "validation" / below
    save_picture(tmp_path / "validation" / "images" / "a.jpg", 1, 5)
    palette = Image.fromarray(np.array([[0, 0, 1, 1, 2]], np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    (base / "labels").mkdir(parents=True)
    palette.save(base / "labels" / "a.png")
    save_map(base / "instances" / "a.png", np.array([[0, 1, 256, 257, 512]]), np.uint16)
    dataset = open_dataset(tmp_path)
    assert [(c.id, c.name, c.isthing) for c in dataset.categories] == [(1, "Bird", True), (2, "Road", False)]
    assert semantic_of(dataset.pictures[0]).tolist() == [[1, 1, 2, 2, VOID]]
    panoptic = panoptic_of(dataset.pictures[0])
    assert [segment.category_id for segment in panoptic.segments] == [1, 1, 2]
    assert panoptic.ids[0, 2] == panoptic.ids[0, 3]  # stuff is one segment
    assert panoptic.ids[0, 4] == 0
    save_map(base / "labels" / "a.png", np.array([[3]]))
    with pytest.raises(DataError, match="holds the class 3"):
        semantic_of(dataset.pictures[0])


def test_folders_of_pngs_are_read(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "val" / "a.jpg", 1, 4)
    save_map(tmp_path / "masks" / "val" / "a.png", np.array([[0, 1, 2, 255]]))
    with pytest.raises(DataError, match=r"nothing says what the class numbers .* classes.txt"):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("floor\nwall\ndoor\n")
    picture = open_dataset(tmp_path).pictures[0]
    assert semantic_of(picture).tolist() == [[0, 1, 2, VOID]]
    assert semantic_of(open_dataset(tmp_path, reduce_labels=True).pictures[0]).tolist() == [[VOID, 0, 1, VOID]]
    with pytest.raises(DataError, match=r"holds 255, which is no class: they are 0 to 2, and 2 is left out"):
        semantic_of(open_dataset(tmp_path, ignore_index=2).pictures[0])
    gaps = tmp_path / "gaps.json"
    write_json(gaps, [{"id": i, "name": n, "isthing": False} for i, n in ((0, "floor"), (1, "wall"), (2, "door"), (255, "sky"))])
    assert semantic_of(open_dataset(tmp_path, labels=gaps, ignore_index=254).pictures[0]).tolist() == [[0, 1, 2, 255]]


def test_maps_that_hold_no_numbers(tmp_path: Path) -> None:
    save_picture(tmp_path / "images" / "a.jpg", 2, 2)
    (tmp_path / "classes.txt").write_text("floor\nwall\n")
    (tmp_path / "masks").mkdir()
    save_picture(tmp_path / "masks" / "a.png", 2, 2)
    with pytest.raises(DataError, match="holds colours, not class numbers"):
        semantic_of(open_dataset(tmp_path).pictures[0])
    (tmp_path / "masks" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        semantic_of(open_dataset(tmp_path).pictures[0])
    (tmp_path / "masks" / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no picture for the map .*b.png"):
        open_dataset(tmp_path)


def test_datasets_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = None; import proscale.datasets"
    subprocess.run([sys.executable, "-c", code], check=True)
