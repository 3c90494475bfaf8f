"""A blank network has every name and shape, and costs next to nothing to make."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.model.checkpoints.test_convert import MASK2FORMER_SMALL, SMALL

from proscale.checkpoints.blank_network import blank_network
from proscale.config import ModelConfig
from proscale.network import SegmentationNetwork

CODE = """
import sys
import proscale.predictor
from proscale.checkpoints.blank_network import blank_network
from proscale.config import RESNET_50, SWIN_T, ModelConfig
before = len(sys.modules)
for backbone in (RESNET_50, SWIN_T):
    blank_network(ModelConfig("x", 3, backbone))
print(len(sys.modules) - before)
"""


@pytest.mark.parametrize("config", [SMALL, MASK2FORMER_SMALL], ids=["proscale", "mask2former"])
def test_a_blank_network_has_all_names_and_shapes(config: ModelConfig) -> None:
    blank, whole = blank_network(config).state_dict(), SegmentationNetwork(config).state_dict()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in blank.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in whole.items()
    }
    assert all(tensor.is_meta for tensor in blank.values())
    assert blank_network(config).to_empty(device="cpu").state_dict().keys() == whole.keys()


def test_initialisation_elsewhere_is_untouched() -> None:
    blank_network(SMALL)
    assert torch.empty(100).normal_().std() > 0.5
    assert torch.randn(100).std() > 0.5


@pytest.mark.slow
def test_a_blank_network_imports_nothing() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "model")}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20, "making a blank network imports modules, which a server waits for when it starts"
