"""Stochastic depth over the last stage of PRO-SCALE's encoder: some steps leave its last layers out, and so every depth learns."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from proscale.config import ModelConfig, ProScaleEncoderConfig
from proscale.errors import DataError
from proscale.pixel_decoder.proscale import ProScaleEncoder
from proscale.training.config import TrainingConfig


def check_depths(config: TrainingConfig, model: ModelConfig) -> None:
    """Raise DataError unless the depths' weights, if there are any, fit the network."""
    weights, encoder = config.depth_weights, model.pixel_decoder.encoder
    if not weights:
        return
    if not isinstance(encoder, ProScaleEncoderConfig):
        raise DataError("depth weights are for PRO-SCALE's encoder alone; this network has Mask2Former's")
    layers = encoder.layers[2]
    if len(weights) != layers or min(weights) < 0 or weights[-1] <= 0:
        raise DataError(
            f"depth weights {list(weights)} do not fit: the last stage has {layers} layers, so there must be {layers}, none negative "
            "and the last above 0"
        )


def drawn_depth(config: TrainingConfig, step: int) -> int | None:
    """How many layers of the last stage step number `step` runs, the same on every process; None: all, as without weights."""
    if not config.depth_weights:
        return None
    weights = np.array(config.depth_weights, np.float64)
    rng = np.random.default_rng([config.seed, 2, step])
    return 1 + int(rng.choice(len(weights), p=weights / weights.sum()))


def run_at_depth(network: nn.Module, depth: int | None) -> None:
    """Let a network's encoder run so many layers of its last stage, or all (None). A network without such an encoder stays as it is."""
    for module in network.modules():
        if isinstance(module, ProScaleEncoder):
            module.depth = depth


def fill_missing(parameters: Sequence[nn.Parameter]) -> None:
    """Give parameters without a gradient one of zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
