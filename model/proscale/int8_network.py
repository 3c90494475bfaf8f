"""A network whose large linear layers and convolutions are computed in bytes, and the calibration that this needs.

In floats stay: the patches' embedding and a ResNet's stem, which read pixels; everything that has one row per query; the gate of token
re-calibration; norms, softmax, the attention operator, and everything from the logits on.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from proscale.any_network import Network
from proscale.errors import CheckpointError
from proscale.layers.deformable_attention import DeformableAttention
from proscale.layers.int8 import (
    ByteRange,
    Int8Convolution,
    Int8Linear,
    ObservedConvolution,
    ObservedLinear,
    RoundedConvolution,
    RoundedLinear,
    Seen,
)
from proscale.network import SegmentationNetwork
from proscale.transformer_decoder import DecoderLayer

Layer = nn.Linear | nn.Conv2d
_IN_BYTES = re.compile(r"(backbone|pixel_decoder)\.|transformer_decoder\.layers\.\d+\.cross_attention\.apart\.[12]$")
_IN_FLOATS = re.compile(r"patch_embedding|\.stem\.|sampling_offsets|attention_weights|recalibration|mask_projection")


@dataclass(frozen=True)
class Calibration:
    """The range of every layer's input over some pictures, and the weights that it was measured with."""

    weights: str
    """SHA-256 of the model's weights file."""
    pictures: int
    """How many were measured."""
    ranges: Mapping[str, tuple[float, float]]
    """Layer -> least and greatest value of its input; a layer that is not named stays in floats."""


def check_kind(network: Network) -> SegmentationNetwork:
    """The network, if bytes are offered for its kind.

    Raises:
        CheckpointError: they are not; the text names the remedy.
    """
    if not isinstance(network, SegmentationNetwork):
        raise CheckpointError("int8 is offered for PRO-SCALE and Mask2Former alone; use --precision float32 or bfloat16")
    return network


def large_layers(network: SegmentationNetwork) -> dict[str, Layer]:
    """Name -> layer, of those that bytes are for. Projections that share a matrix, or an input, are made the layers that run."""
    for module in list(network.modules()):
        if isinstance(module, DeformableAttention) and module.joint is None:
            module.join()
        elif isinstance(module, DecoderLayer) and module.cross_attention.apart is None:
            module.cross_attention.part()
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and _IN_BYTES.match(name) and not _IN_FLOATS.search(name)
    }


def observe(network: SegmentationNetwork) -> dict[str, Seen]:
    """Have every large layer note what it reads; name -> its notes."""
    layers = large_layers(network)
    notes = {name: Seen() for name in layers}
    for name, layer in layers.items():
        seen = notes[name]
        _replace(network, name, ObservedLinear(layer, seen) if isinstance(layer, nn.Linear) else ObservedConvolution(layer, seen))
    return notes


def to_int8(network: SegmentationNetwork, calibration: Calibration, dtype: torch.dtype) -> None:
    """Compute the calibrated layers in bytes, from now on, in place.

    Args:
        network: on the CPU, its weights in float32.
        dtype: of what these layers give, float32 or bfloat16; the rest of the network must have it, too.

    Raises:
        CheckpointError: the calibration names layers that the network does not have.
    """

    def in_bytes(layer: Layer, reads: ByteRange) -> nn.Module:
        return Int8Linear(layer, reads, dtype) if isinstance(layer, nn.Linear) else Int8Convolution(layer, reads, dtype)

    _exchange(network, calibration, in_bytes)


def to_rounded(network: SegmentationNetwork, calibration: Calibration) -> None:
    """The reference form of `to_int8`: the same values, computed in float32."""

    def in_floats(layer: Layer, reads: ByteRange) -> nn.Module:
        return RoundedLinear(layer, reads) if isinstance(layer, nn.Linear) else RoundedConvolution(layer, reads)

    _exchange(network, calibration, in_floats)


def _exchange(network: SegmentationNetwork, calibration: Calibration, form: Callable[[Layer, ByteRange], nn.Module]) -> None:
    layers = large_layers(network)
    if unknown := calibration.ranges.keys() - layers.keys():
        raise CheckpointError(
            f"the calibration is of another network: it has no layer {min(unknown)}. Calibrate again: proscale quantize MODEL --data FOLDER"
        )
    for name, (low, high) in calibration.ranges.items():
        _replace(network, name, form(layers[name], ByteRange.covering(low, high)))


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent).register_module(child, module)
