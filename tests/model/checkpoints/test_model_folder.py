"""A model folder: written, read, and refused with a reason."""

import json
from pathlib import Path

import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.checkpoints.model_folder import DEFAULT_FOLDER, load_folder, save_folder
from proscale.config import MASK2FORMER, SWIN_B, ModelConfig
from proscale.config_json import config_from_json, config_to_json
from proscale.errors import CheckpointError
from proscale.labels import contiguous_categories


@pytest.mark.parametrize("config", [SMALL_CONFIG, ModelConfig("big", 133, SWIN_B, MASK2FORMER)], ids=["proscale", "mask2former"])
def test_configurations_are_written_and_read_unchanged(config: ModelConfig) -> None:
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


def test_folders_are_written_and_read_unchanged(tmp_path: Path) -> None:
    state = {"a": torch.randn(3), "b": torch.arange(2)}
    save_folder(tmp_path / "model", SMALL_CONFIG, SMALL_CATEGORIES, state, torch.float16)
    config, categories, loaded = load_folder(tmp_path / "model")
    assert config == SMALL_CONFIG
    assert categories == SMALL_CATEGORIES
    assert loaded["a"].dtype == torch.float16
    assert torch.allclose(loaded["a"].float(), state["a"], atol=1e-3)
    assert torch.equal(loaded["b"], state["b"])


def test_categories_must_be_as_many_as_classes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 categories for 5 classes"):
        save_folder(tmp_path, SMALL_CONFIG, contiguous_categories(2), {})


def test_a_missing_folder_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model folder at .*nowhere.*leave the checkpoint unset"):
        load_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "labels.json", "model.safetensors"])
def test_missing_and_broken_files_are_named(small_checkpoint: Path, tmp_path: Path, name: str) -> None:
    for file in small_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"\x00 nonsense")
    with pytest.raises(CheckpointError, match=name):
        load_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} missing"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": {"type": "vgg"}}, "type is 'vgg', known are resnet, swin"),
        ({"backbone": {"type": "resnet", "depth": 50}}, "ResNetConfig does not know depth"),
        ({"classes": None, "colour": 1}, "colour"),
        ({"preprocess": {"short": 3}}, "PreprocessConfig does not know short"),
    ],
)
def test_configuration_errors_say_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_from_json(config_to_json(SMALL_CONFIG) | change)


def test_the_embedded_model_is_small_enough_and_whole() -> None:
    config, categories, state = load_folder(DEFAULT_FOLDER)
    assert sum(tensor.numel() for tensor in state.values()) <= 8_000_000
    assert (DEFAULT_FOLDER / "model.safetensors").stat().st_size <= 20_000_000
    assert {"nucleus", "background"} <= {category.name for category in categories}
    assert config_to_json(config)["pixel_decoder"]["encoder"]["type"] == "proscale"
