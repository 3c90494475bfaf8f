"""From averaged training weights to a model folder that the service loads."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from proscale.backbones.resnet import freeze_batch_norm
from proscale.checkpoints.model_folder import save_folder
from proscale.checkpoints.provenance import save_provenance
from proscale.checkpoints.write_folders import ReplacedFolder
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.results import Provenance
from proscale.training.ema import ExponentialMovingAverage


def inference_network(average: ExponentialMovingAverage) -> SegmentationNetwork:
    """A copy of the averaged network as it runs in inference: evaluation mode, frozen batch normalisation, on the CPU."""
    network = copy.deepcopy(average.network).cpu()
    assert isinstance(network, SegmentationNetwork)
    freeze_batch_norm(network)
    return network.eval()


def trained_from(origin: Provenance, change: str) -> Provenance:
    """Where a model that was trained further comes from: the origin's chain and one more change."""
    return replace(origin, changes=(*origin.changes, change))


def export(average: ExponentialMovingAverage, folder: Path, categories: Sequence[Category], provenance: Provenance | None = None) -> None:
    """Write the averaged network as a model folder, half precision; whole or not at all, so that a kill leaves the earlier one.

    Args:
        provenance: of the model that the run started from, with this run as its last change; None: from random weights.
    """
    network = inference_network(average)
    with ReplacedFolder(folder) as new:
        save_folder(new, network.config, categories, network.state_dict(), torch.float16)
        if provenance is not None:
            save_provenance(new, provenance)
