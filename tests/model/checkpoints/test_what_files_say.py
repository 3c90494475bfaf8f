"""What lies beside weights is followed: names, numbers, preprocessing; and nothing is guessed where a file says otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.checkpoints.test_convert import MASK2FORMER_SMALL, SMALL, detectron2_file
from transformers import Mask2FormerImageProcessor

from proscale.checkpoints.choose_labels import choose_labels
from proscale.checkpoints.convert import Converted, Request, convert
from proscale.checkpoints.stated_settings import StatedSettings
from proscale.checkpoints.transformers_config import label_ids, label_names, preprocessing
from proscale.checkpoints.write_folders import write, write_transformers
from proscale.config import ModelConfig, PostprocessConfig, PreprocessConfig
from proscale.errors import CheckpointError
from proscale.geometry import resize_picture
from proscale.labels import Category, label_table
from proscale.network import SegmentationNetwork
from proscale.preprocess import preprocess
from proscale.results import Provenance


def labels(id2label: dict[str, str], classes: int) -> list[tuple[int, str]]:
    said = StatedSettings(label_names=label_names(id2label), label_ids=label_ids(id2label))
    return [(category.id, category.name) for category in choose_labels(classes, said, None).categories]


def test_names_count_as_the_file_counts() -> None:
    assert labels({"0": "cell", "1": "nucleus"}, 2) == [(0, "cell"), (1, "nucleus")]
    assert labels({"1": "cell", "2": "nucleus"}, 2) == [(1, "cell"), (2, "nucleus")]
    assert labels({"10": "late", "0": "cell", "7": "nucleus"}, 3) == [(0, "cell"), (7, "nucleus"), (10, "late")]
    assert labels({"0": "background", "1": "cell", "2": "nucleus"}, 2) == [(1, "cell"), (2, "nucleus")]
    assert labels({"0": "cell", "1": "nucleus", "2": "Unlabeled"}, 2) == [(0, "cell"), (1, "nucleus")]
    with pytest.raises(CheckpointError, match="names 3 classes, the weights have 2"):
        labels({"0": "cell", "1": "nucleus", "2": "debris"}, 2)


def test_a_number_of_classes_decides_nothing_where_names_stand() -> None:
    private = {str(i): f"part {i}" for i in range(20)}
    with pytest.raises(CheckpointError, match="names 20 classes, the weights have 19"):
        labels(private, 19)
    assert labels({str(i + 1): f"part {i}" for i in range(19)}, 19)[0] == (1, "part 0")
    assert labels({str(i): f"LABEL_{i}" for i in range(19)}, 19)[0] == (7, "road")  # nobody named these


def test_a_data_sets_names_in_another_order() -> None:
    table = label_table("cityscapes").categories
    turned = [*reversed(table)]
    said = StatedSettings(label_names=tuple(f" {c.name.upper()}" for c in turned))
    chosen = choose_labels(19, said, None).categories
    assert [(c.id, c.isthing) for c in chosen] == [(c.id, c.isthing) for c in turned]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("('cityscapes_fine_panoptic_train',)", "cityscapes"),
        ("('my_private_train',)", None),
        ("('cityscapes_fine_panoptic_train', 'my_private_train')", None),
    ],
)
def test_private_data_sets_in_a_yaml(train: str, expected: str | None, tmp_path: Path) -> None:
    source = detectron2_file(tmp_path, replace(SMALL, classes=19))
    source.with_suffix(".yaml").write_text(f'DATASETS:\n  TRAIN: "{train}"\n')
    if expected is None:
        with pytest.raises(CheckpointError, match=r"names the data set '.*my_private_train', which says nothing here of its 19 classes"):
            convert(str(source), Request())
        assert len(convert(str(source), Request(labels="numbered")).categories) == 19
    else:
        assert convert(str(source), Request()).categories == label_table(expected).categories


PROCESSORS: list[dict[str, Any]] = [
    {},
    {"do_normalize": False},
    {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 61, 62]},
    {"size": {"height": 70, "width": 90}},
    {"size": {"height": 64, "width": 96}, "size_divisor": 0},
    {"do_resize": False},
    {"size_divisor": 64},
    {"resample": 3},
    {"resample": 0, "size": {"shortest_edge": 50, "longest_edge": 60}},
    {"resample": 1},
]


@pytest.mark.parametrize("said", PROCESSORS, ids=str)
def test_preprocessing_is_followed(said: dict[str, Any]) -> None:
    """The very pixels that transformers' own processor (the one on PIL) makes of a picture."""
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil as Processor

    values = {"size": {"shortest_edge": 64, "longest_edge": 120}, "size_divisor": 32, "resample": 2} | said
    stated = preprocessing(values, Path("preprocessor_config.json"))
    plain = PreprocessConfig()
    config = PreprocessConfig(
        short_side=stated.short_side or plain.short_side,
        long_side=stated.long_side or plain.long_side,
        size_divisor=stated.size_divisor or plain.size_divisor,
        mean=stated.mean or plain.mean,
        std=stated.std or plain.std,
        size=stated.size,
        resize=stated.resize is not False,
        align=stated.align or "pad",
        filter=stated.filter or "bilinear",
    )
    picture = np.random.default_rng(0).integers(0, 256, (75, 110, 3), np.uint8)
    ours = preprocess([resize_picture(picture, config)], config)
    theirs = Processor(**values)(picture, return_tensors="pt")["pixel_values"]
    height, width = resize_picture(picture, config).pixels.shape[:2]
    assert theirs.shape[2:] == (height, width)  # what ours has beyond is padding
    assert torch.allclose(ours[..., :height, :width], theirs, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"do_center_crop": True}, "do_center_crop is True; pictures are never cropped"),
        ({"size_divisor": 20}, "size_divisor is 20; sides must be multiples of 32"),
        ({"resample": 9}, "resample is 9"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
    ],
)
def test_unsupported_preprocessing_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        preprocessing(said, Path("preprocessor_config.json"))


def model(**preprocess: Any) -> Converted:
    config = replace(
        MASK2FORMER_SMALL,
        classes=3,
        name="mine",
        preprocess=PreprocessConfig(short_side=300, long_side=500, **preprocess),
        postprocess=PostprocessConfig(threshold=0.31, overlap_threshold=0.2, instance_threshold=0.1, max_instances=77),
    )
    categories = (Category(7, "cell", True), Category(11, "nucleus", True), Category(13, "ground", False))
    provenance = Provenance("x.pth", "00", "detectron2", ("warm start",))
    return Converted(config, categories, SegmentationNetwork(config).state_dict(), provenance, ())


def test_to_transformers_and_back_is_identical(tmp_path: Path) -> None:
    ours = model()
    write_transformers(ours, tmp_path / "theirs")
    back = convert(str(tmp_path / "theirs"), Request())
    assert (back.config, back.categories) == (ours.config, ours.categories)
    assert back.provenance.layout == "transformers"
    assert back.provenance.changes == ("was made from x.pth, sha256 00, layout detectron2", "warm start")  # the chain goes on
    assert all(torch.equal(back.state[name], tensor) for name, tensor in ours.state.items())
    write(back, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "labels.json").read_text())[2] == {"id": 13, "name": "ground", "isthing": False}


def test_changes_in_transformers_files_are_used(tmp_path: Path) -> None:
    write_transformers(model(), tmp_path)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | {"size": {"height": 64, "width": 96}}))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    back = convert(str(tmp_path), Request())
    assert isinstance(back.config, ModelConfig)
    assert back.config.preprocess.size == (64, 96)
    assert back.config.postprocess.threshold == 0.31
    assert [category.name for category in back.categories] == ["a", "b", "c"]
    own = convert(str(tmp_path), Request(size=StatedSettings(short_side=100, long_side=200)))
    assert isinstance(own.config, ModelConfig)
    assert (own.config.preprocess.size, own.config.preprocess.short_side) == (None, 100)
    (tmp_path / "proscale.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"proscale.json is malformed .* delete it"):
        convert(str(tmp_path), Request())
    assert Mask2FormerImageProcessor.from_pretrained(tmp_path).size["height"] == 64


def test_as_many_instances_as_queries(tmp_path: Path) -> None:
    config = replace(SMALL, transformer_decoder=replace(SMALL.transformer_decoder, queries=200))
    converted = convert(str(detectron2_file(tmp_path, config)), Request())
    assert isinstance(converted.config, ModelConfig)
    assert converted.config.postprocess.max_instances == 200
