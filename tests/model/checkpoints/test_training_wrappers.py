"""What trainers put around weights, layer upon layer, is taken off; an average beside them is a choice."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proscale.checkpoints.weight_files import read_checkpoint
from proscale.errors import CheckpointError

NAMES = ("backbone.stem.conv1.weight", "sem_seg_head.predictor.query_feat.weight", "sem_seg_head.pixel_decoder.mask_features.bias")
STATE = {name: torch.full((2, 3), float(i)) for i, name in enumerate(NAMES)}
AVERAGE = {name: tensor + 100 for name, tensor in STATE.items()}


def named(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


ALONE: dict[str, dict[str, Any]] = {
    "compiled": {"model": named("_orig_mod.")},
    "compiled inside": {"state_dict": {name.replace("head.", "head._orig_mod.", 1): tensor for name, tensor in STATE.items()}},
    "DDP of compiled": {"model": named("module._orig_mod.")},
    "Lightning": {
        "epoch": 3,
        "pytorch-lightning_version": "2.4",
        "state_dict": named("model.") | {"criterion.empty_weight": torch.ones(3)},
        "hyper_parameters": {"classes": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
    },
    "Lightning of something": {"state_dict": named("net.segmenter.")},
    "DeepSpeed": {"module": named("module."), "optimizer": {"exp_avg": torch.ones(2)}, "global_steps": 7},
    "nested": {"model": {"state_dict": STATE}, "optimizer": {"state": {"exp_avg": torch.ones(2)}}},
    "averaged model alone": named("module.") | {"n_averaged": torch.tensor(5)},
    "numpy scalars": {"model": STATE, "best": np.float64(51.9), "iteration": np.int64(3)},
    "numpy scalars among weights": STATE | {"epoch": np.int64(3)},
    "a configuration": {"model": STATE, "args": argparse.Namespace(lr=1e-4, out=Path("x"))},
}


@pytest.mark.parametrize("wrapped", ALONE.values(), ids=ALONE)
def test_wrappers_of_trainers_are_removed(wrapped: dict[str, Any], tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth")
    assert read.state.keys() == STATE.keys()
    assert all(torch.equal(read.state[name], STATE[name]) for name in STATE)
    assert read.note is None


BOTH: dict[str, tuple[dict[str, Any], str]] = {
    "two dictionaries": ({"model": STATE, "ema_state_dict": AVERAGE}, "ema_state_dict"),
    "timm": ({"state_dict": STATE, "state_dict_ema": named("module.", AVERAGE)}, "state_dict_ema.module"),
    "nested": ({"model": STATE, "model_ema": {"module": AVERAGE, "decay": 0.999}}, "model_ema.module"),
    "prefixes": ({"state_dict": named("model.") | named("ema_model.", AVERAGE)}, "state_dict.ema_model"),
    "detectron2": ({"model": STATE | named("model_ema.", AVERAGE)}, "model.model_ema"),
}


@pytest.mark.parametrize(("wrapped", "path"), BOTH.values(), ids=BOTH)
def test_weights_or_their_average_are_chosen(wrapped: dict[str, Any], path: str, tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "x.pth")
    plain = read_checkpoint(tmp_path / "x.pth")
    assert plain.state.keys() == STATE.keys()
    assert torch.equal(plain.state[NAMES[1]], STATE[NAMES[1]])
    assert plain.note is not None
    assert f"it also holds {path!r} (--weights)" in plain.note
    for wanted in ("ema", path):
        average = read_checkpoint(tmp_path / "x.pth", wanted)
        assert average.state.keys() == STATE.keys()
        assert torch.equal(average.state[NAMES[1]], AVERAGE[NAMES[1]])
    with pytest.raises(CheckpointError, match=r"no weights 'best'; it holds .*Name one of them with --weights"):
        read_checkpoint(tmp_path / "x.pth", "best")


def test_a_missing_average_is_an_error(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no weights 'ema'; it holds 'model'"):
        read_checkpoint(tmp_path / "x.pth", "ema")
    torch.save({"student": STATE, "other": STATE}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="several weights: 'student', 'other'"):
        read_checkpoint(tmp_path / "x.pth")
    assert len(read_checkpoint(tmp_path / "x.pth", "other").state) == 3


def test_shards_of_torch_files_are_joined(tmp_path: Path) -> None:
    first, second = tmp_path / "pytorch_model-00001-of-00002.bin", tmp_path / "pytorch_model-00002-of-00002.bin"
    torch.save({NAMES[0]: STATE[NAMES[0]]}, first)
    torch.save({name: STATE[name] for name in NAMES[1:]}, second)
    index = {"weight_map": {NAMES[0]: first.name, NAMES[1]: second.name, NAMES[2]: second.name}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    read = read_checkpoint(tmp_path)
    assert (read.files, read.state.keys()) == ((first, second), STATE.keys())
    second.unlink()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-00002-of-00002.bin"):
        read_checkpoint(tmp_path)


class Evil:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def test_nothing_in_files_beside_the_weights_is_run(tmp_path: Path) -> None:
    torch.save({"model": STATE, "hook": Evil(os.mkdir, str(tmp_path / "ran"))}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"it wants to use \w+.mkdir"):
        read_checkpoint(tmp_path / "x.pth")
    # A harmless package's function is not called either.
    torch.save({"model": STATE, "hook": Evil(np.save, str(tmp_path / "ran.npy"), 1)}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").state.keys() == STATE.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth"]
