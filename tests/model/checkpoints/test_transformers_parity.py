"""Converted networks compute what transformers' own Mask2Former computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.checkpoints.peer import (
    RESNET_50,
    SMALL_HEAD,
    SWIN_B,
    SWIN_T,
    TINY_RESNET,
    TINY_SWIN,
    Difference,
    compare,
    peer_network,
    save_peer,
)

from proscale.checkpoints.convert import Converted, Request, convert
from proscale.checkpoints.recognise_architecture import backbone_name
from proscale.checkpoints.strict_loading import load_strictly
from proscale.network import SegmentationNetwork
from proscale.ops import native

LIMIT = 5e-5
"""Both compute in float64, save sine positions, which we keep in float32. All in float32, each would be up to 2e-4 from that: such random
networks amplify rounding, and no two orders of summing round alike."""

# Below one window, transformers shrinks Swin's windows and the published models do not: sizes stay above it, at stride 32.
CASES = {
    "small Swin": ("swin", TINY_SWIN, SMALL_HEAD, [(1, 128, 160), (2, 160, 128), (1, 224, 192)]),
    "small ResNet": ("resnet", TINY_RESNET, SMALL_HEAD, [(1, 64, 96), (2, 96, 64), (1, 32, 32)]),
    "Swin-T": ("swin", SWIN_T, {}, [(1, 224, 256)]),
    "ResNet-50": ("resnet", RESNET_50, {}, [(2, 96, 64)]),
    "large windows, as in Swin-B": ("swin", {**SWIN_B, "depths": [2, 2, 2, 2]}, SMALL_HEAD, [(1, 384, 416)]),
}


@pytest.fixture(autouse=True)
def _the_peers_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    # The peer samples with grid_sample, whose coordinates are 1e-5 off float64. The reference form does the same; the compiled
    # operator is closer to float64 than to either, and is held to it in its own tests.
    monkeypatch.setattr(native, "covers", lambda *_: False)


def network_of(converted: Converted) -> SegmentationNetwork:
    with torch.device("meta"):
        network = SegmentationNetwork(converted.config)
    network.to_empty(device="cpu")
    load_strictly(network, converted.state)
    return network


def within_tolerance(difference: Difference) -> bool:
    logits = max(difference.mask_features, difference.levels, difference.class_logits, difference.mask_logits)
    return logits < LIMIT and difference.iou > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_logits_and_masks_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind, backbone, head, sizes = CASES[name]
    peer = peer_network(kind, backbone, head)
    converted = convert(str(save_peer(peer, tmp_path)), Request(labels="numbered"))
    assert backbone_name(converted.config.backbone) in (name, "Swin", "ResNet")
    network = network_of(converted).double()
    peer.double()
    for batch, height, width in sizes:
        difference = compare(peer, network, torch.randn(batch, 3, height, width, dtype=torch.float64))
        assert within_tolerance(difference), f"{batch} x {height} x {width}: {difference}"


@pytest.mark.parametrize(
    "tensor",
    [
        "backbone.stages.0.blocks.1.attention.qkv.weight",
        "backbone.stages.2.blocks.0.attention.relative_position_bias",
        "backbone.output_norms.1.bias",
        "pixel_decoder.encoder.level_embedding",
        "transformer_decoder.layers.2.self_attention.in_projection.bias",
    ],
)
def test_comparison_notices_rows_in_the_wrong_order(tensor: str, tmp_path: Path) -> None:
    peer = peer_network("swin", TINY_SWIN, SMALL_HEAD)
    network = network_of(convert(str(save_peer(peer, tmp_path)), Request(labels="numbered")))
    pixels = torch.randn(1, 3, 128, 160, dtype=torch.float64)
    assert within_tolerance(compare(peer.double(), network.double(), pixels))
    state: dict[str, Any] = network.state_dict()
    state[tensor].copy_(state[tensor].roll(1, 0))
    assert not within_tolerance(compare(peer, network, pixels))
