"""SegFormer and EoMT of transformers under our names compute the same, and go back to the same tensors."""

from typing import Any

import pytest
import torch
from tests.model.checkpoints.semantic_peers import peer_eomt, peer_segformer
from torch import Tensor

from proscale.checkpoints.eomt_names import eomt_layout, from_transformers_eomt, masked_attention, to_transformers_eomt
from proscale.checkpoints.segformer_names import from_segformer, segformer_layout, to_transformers_segformer
from proscale.checkpoints.strict_loading import load_strictly
from proscale.config import EomtModelConfig, MixTransformerConfig, SegformerHeadConfig, SemanticModelConfig, VitConfig
from proscale.eomt_network import EomtNetwork
from proscale.errors import CheckpointError
from proscale.predictions import DensePrediction, QueryPrediction
from proscale.semantic_network import SemanticNetwork

TOLERANCE = 5e-5


def assert_same_tensors(back: dict[str, Tensor], original: dict[str, Tensor]) -> None:
    assert back.keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("size", [(64, 64), (101, 133), (96, 32)], ids=str)
def test_segformer_has_the_logits_of_transformers_and_goes_back(size: tuple[int, int]) -> None:
    peer = peer_segformer()
    state = dict(peer.state_dict())
    assert segformer_layout(state) == "transformers"
    network = SemanticNetwork(
        SemanticModelConfig("x", 5, MixTransformerConfig((8, 16, 24, 32), (1, 2, 1, 1), (1, 2, 3, 4)), SegformerHeadConfig(12))
    ).eval()
    load_strictly(network, from_segformer(state, "transformers"))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        said, expected = network.predict(images), peer(images).logits
    assert isinstance(said, DensePrediction)
    torch.testing.assert_close(said.logits, expected, rtol=0, atol=TOLERANCE)
    assert_same_tensors(to_transformers_segformer(network.state_dict()), state)


@pytest.mark.parametrize(
    ("arguments", "vit"),
    [
        ({}, {}),
        ({"masked": 1.0}, {}),
        ({"use_swiglu_ffn": True}, {"gated_mlp": True, "mlp_dim": 64}),
        ({"num_upscale_blocks": 1, "num_register_tokens": 0}, {"registers": 0}),
        ({"dinov3": True}, {"position": "rotary", "mlp_dim": 40, "key_bias": False}),
        ({"dinov3": True, "num_queries": 3, "num_blocks": 4}, {"position": "rotary", "mlp_dim": 40, "key_bias": False}),
    ],
    ids=["dinov2", "masked", "swiglu", "one step", "dinov3", "dinov3, all blocks"],
)
def test_eomt_has_the_logits_of_transformers_and_goes_back(arguments: dict[str, Any], vit: dict[str, Any]) -> None:
    peer = peer_eomt(**arguments)
    state = dict(peer.state_dict())
    layout = eomt_layout(state)
    assert layout is not None
    shape: dict[str, Any] = {"dim": 24, "layers": 4, "heads": 3, "mlp_dim": 96, "grid": (4, 4), "registers": 3}
    backbone = VitConfig(**shape | {"class_token": True, "layer_scale": True, "final_norm": True} | vit)
    config = EomtModelConfig(
        "x",
        5,
        backbone,
        peer.config.num_queries,
        peer.config.num_blocks,
        peer.config.num_upscale_blocks,
        masked_attention(state),
    )
    network = EomtNetwork(config).eval()
    load_strictly(network, from_transformers_eomt(state, layout))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        said, expected = network.predict(images), peer(images)
    assert isinstance(said, QueryPrediction)
    torch.testing.assert_close(said.mask_logits, expected.masks_queries_logits, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(said.class_logits, expected.class_queries_logits, rtol=0, atol=TOLERANCE)
    back = to_transformers_eomt(network.state_dict(), config)
    assert_same_tensors(back, state)


def test_half_annealed_masks_are_refused() -> None:
    with pytest.raises(CheckpointError, match="half annealed"):
        masked_attention(peer_eomt(masked=0.5).state_dict())


def test_dinov3_takes_any_grid() -> None:
    """Rotary positions know no grid; transformers' mask head does, so the tokens are compared."""
    peer = peer_eomt(dinov3=True, image_size=96)
    small = peer_eomt(dinov3=True)
    small.load_state_dict(peer.state_dict())
    backbone = VitConfig(
        24, 4, 3, 40, 16, (4, 4), "rotary", class_token=True, registers=3, layer_scale=True, key_bias=False, final_norm=True
    )
    network = EomtNetwork(EomtModelConfig("x", 5, backbone, 7, 2)).eval()
    load_strictly(network, from_transformers_eomt(dict(small.state_dict()), "transformers, DINOv3"))
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        said = network.predict(images)
        assert isinstance(said, QueryPrediction)
        torch.testing.assert_close(said.mask_logits, peer(images).masks_queries_logits, rtol=0, atol=TOLERANCE)
