"""A head's short form says what its published form says, in float64 to rounding; and it is counted right."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from proscale.config import (
    EomtModelConfig,
    MixTransformerConfig,
    SegformerHeadConfig,
    SegvitHeadConfig,
    SemanticModelConfig,
    SetrHeadConfig,
    VitConfig,
)
from proscale.eomt_network import EomtNetwork
from proscale.network_flops import count_baseline, count_network, network_cost
from proscale.predictions import DensePrediction, QueryPrediction
from proscale.published import PUBLISHED
from proscale.semantic_network import SemanticNetwork

MIT = MixTransformerConfig((8, 16, 24, 32), (1, 2, 1, 1), (1, 2, 3, 4))
VIT = VitConfig(24, 4, 3, 40, grid=(3, 4), taps=(0, 1, 2, 3))
CONFIGS = {
    "segformer linear": SemanticModelConfig("x", 5, MIT, SegformerHeadConfig(12)),
    "segformer conv": SemanticModelConfig("x", 5, MIT, SegformerHeadConfig(12, "conv")),
    "setr naive": SemanticModelConfig("x", 5, VIT, SetrHeadConfig("naive", 12)),
    "setr pup": SemanticModelConfig("x", 5, VIT, SetrHeadConfig("pup", 12)),
    "setr mla": SemanticModelConfig("x", 5, VIT, SetrHeadConfig("mla", 12, 6)),
    "segvit": SemanticModelConfig("x", 5, VIT, SegvitHeadConfig(12, 3, 2)),
    "segvit, a layer a tap": SemanticModelConfig("x", 5, VIT, SegvitHeadConfig(12, 3, 1)),
    "segvit shrunk": SemanticModelConfig("x", 5, replace(VIT, shrink=2, taps=(1, 3)), SegvitHeadConfig(12, 3, 2, (3, 5))),
}
SIZES = [(64, 64), (48, 80), (101, 133)]


def randomise(network: nn.Module) -> None:
    torch.manual_seed(5)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        with torch.no_grad():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif "norm" in name and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(0, 1 / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.3)


def built(name: str) -> SemanticNetwork:
    network = SemanticNetwork(CONFIGS[name]).double().eval()
    randomise(network)
    return network


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_short_form_equals_the_published_one(name: str, size: tuple[int, int]) -> None:
    network = built(name)
    with torch.no_grad():
        features = network.backbone(torch.randn(2, 3, *size, dtype=torch.float64))
        published, short = network.head(features), network.head.fold()(features)
    if isinstance(published, QueryPrediction):
        torch.testing.assert_close(short.mask_logits, published.mask_logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(short.class_logits, published.class_logits, rtol=0, atol=1e-12)
        return
    assert isinstance(published, DensePrediction)
    logits = short.logits
    if short.upscale > 1:
        logits = F.interpolate(logits, scale_factor=short.upscale, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, published.logits, rtol=0, atol=1e-12)


def test_a_short_form_made_once_is_used_and_training_drops_it() -> None:
    network, images = built("segformer linear"), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    fresh = network.predict(images)
    network.fold()
    made = network.short_head
    kept = network.predict(images)
    assert isinstance(fresh, DensePrediction)
    assert isinstance(kept, DensePrediction)
    assert torch.equal(fresh.logits, kept.logits)
    assert network.short_head is made
    assert "short_head" not in "".join(network.state_dict())
    network.train()
    assert network.short_head is None


def counted(network: nn.Module, images: torch.Tensor, forward: bool) -> int:
    # The counter does not know the CPU's fused attention; the plain form is the same two products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(images) if forward else network.predict(images)  # type: ignore[operator]
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("size", [(64, 64), (72, 104)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_products_are_counted_as_torch_counts_them(name: str, size: tuple[int, int]) -> None:
    network = built(name).float()
    network.fold()  # the matrices made of matrices are not part of a picture's cost
    for published in (True, False):
        backbone, head = network_cost(CONFIGS[name], size, published)
        assert backbone.products + head.products == counted(network, torch.randn(1, 3, *size), published), published


@pytest.mark.parametrize("rotary", [False, True], ids=["learnt", "rotary"])
@pytest.mark.parametrize("gated", [False, True], ids=["gelu", "swiglu"])
def test_products_of_eomt(rotary: bool, gated: bool) -> None:
    vit = VitConfig(
        24, 4, 3, 40, 16, (3, 4), "rotary" if rotary else "bicubic", class_token=True, registers=2, gated_mlp=gated, final_norm=True
    )
    for masked in (False, True):
        config = EomtModelConfig("x", 5, vit, 7, 2, masked_attention=masked)
        backbone, head = network_cost(config, (48, 64), published=True)
        assert backbone.products + head.products == counted(EomtNetwork(config).eval(), torch.randn(1, 3, 48, 64), forward=False)


def test_folding_saves_the_expected_flops() -> None:
    """The figures of SegFormer-B2 at 512x512 with 150 classes: 62.3 as published, 23.7 folded."""
    config = SemanticModelConfig("B2", 150, MixTransformerConfig((64, 128, 320, 512), (3, 4, 6, 3)), SegformerHeadConfig(768))
    published, folded = (sum(cost.products for cost in network_cost(config, (512, 512), flag)) / 1e9 for flag in (True, False))
    assert published == pytest.approx(62.34, abs=0.01)
    assert folded == pytest.approx(23.68, abs=0.01)


def test_the_cost_of_segvit_shrunk_equals_the_published_one() -> None:
    """SegViT-L Shrunk on ADE20K at 640: 373.5 GFLOPs, as its authors publish."""
    config = PUBLISHED["segvit-l-shrunk"](150)
    assert count_baseline(config, (640, 640)).total / 1e9 == pytest.approx(373.5, abs=0.05)
    assert count_network(config, (640, 640)).total / 1e9 == pytest.approx(369.0, abs=0.05)
