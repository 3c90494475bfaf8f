"""From averaged training weights to a model folder that the service loads."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from proscale.backbones.resnet import freeze_batch_norm
from proscale.checkpoints.model_folder import save_folder
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.training.ema import ExponentialMovingAverage


def inference_network(average: ExponentialMovingAverage) -> SegmentationNetwork:
    """A copy of the averaged network as it runs in inference: evaluation mode, frozen batch normalisation, on the CPU."""
    network = copy.deepcopy(average.network).cpu()
    assert isinstance(network, SegmentationNetwork)
    freeze_batch_norm(network)
    return network.eval()


def export(average: ExponentialMovingAverage, folder: Path, categories: Sequence[Category]) -> None:
    """Write the averaged network as a model folder, half precision."""
    network = inference_network(average)
    save_folder(folder, network.config, categories, network.state_dict(), torch.float16)
