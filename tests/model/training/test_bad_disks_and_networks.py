"""What may go wrong around a run: a disk that is full, a model of another network. Nothing is lost, and the remedy is named."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network
from tests.model.training.test_command import train, write_data

from proscale.checkpoints.model_folder import save_folder
from proscale.config import EomtModelConfig, VitConfig
from proscale.config_json import config_to_json
from proscale.eomt_network import EomtNetwork
from proscale.training.run_state import STATE_FILE


@contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the system refuses to write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_full_disk_leaves_state_and_model_of_before(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_to_json(replace(SMALL_CONFIG, classes=3))))
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    arguments = ("--data", data, "--config", config, "--out", out)
    assert train(*arguments, "--steps", 1).exit_code == 0
    state, model = (out / STATE_FILE).read_bytes(), files_of(out / "model")
    # A resume of a run that is done writes the model alone; one that goes on writes the state first, which is several times as large.
    for steps, room in ((1, len(model["model.safetensors"]) // 2), (2, len(state) // 2)):
        with full_disk(room):
            result = train(*arguments, "--steps", steps, "--resume")
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit), result.exception
        assert "Free disk space" in result.output
        assert (out / STATE_FILE).read_bytes() == state
        assert files_of(out / "model") == model
        assert not [path.name for path in out.iterdir() if path.name.startswith(".") or path.name.endswith(".tmp")]
    assert train(*arguments, "--steps", 2, "--resume").exit_code == 0
    assert files_of(out / "model") != model


def test_models_that_cannot_be_trained_are_named(tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    save_folder(tmp_path / "start", SMALL_CONFIG, SMALL_CATEGORIES, small_network().state_dict())
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps(config_to_json(replace(SMALL_CONFIG, transformer_decoder=replace(SMALL_CONFIG.transformer_decoder, layers=1))))
    )
    vit = VitConfig(dim=32, layers=2, heads=2, mlp_dim=64, grid=(2, 2))
    eomt = EomtModelConfig("eomt", len(SMALL_CATEGORIES), vit, queries=4, query_blocks=1)
    save_folder(tmp_path / "eomt", eomt, SMALL_CATEGORIES, EomtNetwork(eomt).state_dict())
    for options, message in (
        (("--init", tmp_path / "start", "--config", other), f"{other} describes another network than the one of --init"),
        (("--init", tmp_path / "eomt"), "only Mask2Former and PRO-SCALE networks can be trained here"),
        (("--init", tmp_path / "nowhere"), "no model folder at"),
    ):
        result = train("--data", data, "--out", out, "--steps", 1, *options)
        assert result.exit_code == 1
        assert message in result.output
