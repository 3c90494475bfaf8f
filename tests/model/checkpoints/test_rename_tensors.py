"""Strict renaming and loading."""

import pytest
import torch
from torch import nn

from proscale.checkpoints.detectron2_names import from_detectron2
from proscale.checkpoints.rename_tensors import rename
from proscale.checkpoints.strict_loading import load_strictly
from proscale.errors import CheckpointError


def test_numbers_and_leaves_are_carried_over() -> None:
    table = [("a.{i}.b{j}.{leaf}", "x.{j}.y.{i}.{leaf}"), ("plain", "simple")]
    state = {"a.12.b3.weight": torch.zeros(1), "plain": torch.ones(1), "noise.7": torch.ones(1)}
    assert list(rename(state, table, dropped=[r"noise\.\d"])) == ["x.3.y.12.weight", "simple"]


def test_unknown_names_are_listed() -> None:
    with pytest.raises(CheckpointError, match=r"2 names .* not known: a\.b, plainly"):
        rename({"plainly": torch.zeros(1), "a.b": torch.zeros(1)}, [("plain", "simple")])


def test_names_of_other_networks_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"fc\.weight"):
        from_detectron2({"fc.weight": torch.zeros(1), "criterion.empty_weight": torch.zeros(1)})


def test_loading_lists_every_mismatch() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(4), "1.weight": torch.zeros(1, 3), "2.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError) as error:
        load_strictly(network, state)
    for part in ("missing: 1.bias", "superfluous: 2.bias", "0.bias is (4,), the network has (3,)"):
        assert part in str(error.value)


def test_half_precision_weights_are_loaded_as_float32() -> None:
    network = nn.Linear(2, 1)
    load_strictly(network, {"weight": torch.ones(1, 2).half(), "bias": torch.ones(1).half()})
    assert network.weight.dtype == torch.float32
    assert network.weight.tolist() == [[1, 1]]
