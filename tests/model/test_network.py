"""The network's short way to its last prediction: the same result, for any batch mates, in one graph, without waiting for the device."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.builders import SMALL_CONFIG
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from proscale.config import MASK2FORMER, ModelConfig, SwinConfig
from proscale.network import SegmentationNetwork

SWIN = SwinConfig(8, (2, 2, 2, 2), (1, 1, 2, 2), 5)
CONFIGS = {
    "ResNet, PRO-SCALE": SMALL_CONFIG,
    "Swin, PRO-SCALE": replace(SMALL_CONFIG, backbone=SWIN),
    "Swin, Mask2Former": replace(SMALL_CONFIG, backbone=SWIN, pixel_decoder=replace(MASK2FORMER, hidden_dim=32, heads=4, ffn_dim=32)),
}


def network_of(config: ModelConfig) -> SegmentationNetwork:
    """Random weights and biases, large enough that masks differ and do not cover everything."""
    network = SegmentationNetwork(config).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.add_(0.2 * torch.randn(parameter.shape))
    network.transformer_decoder.mask_head.layers[-1].weight.mul_(8)  # type: ignore[operator]
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_predict_equals_the_last_prediction_of_forward(name: str) -> None:
    network = network_of(CONFIGS[name]).double()  # in float64 no mask's bit turns on rounding
    images = torch.randn(2, 3, 96, 160)
    with torch.inference_mode():
        plain, short = network(images.double()), network.predict(images)
    assert short.class_logits.dtype == short.mask_logits.dtype == torch.float32
    assert 0.05 < (plain.mask_logits > 0).double().mean() < 0.95
    assert torch.allclose(short.class_logits.double(), plain.class_logits, atol=1e-5)
    assert torch.allclose(short.mask_logits.double(), plain.mask_logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_without_gradients_agree_with_those_that_have_them(name: str) -> None:
    network = network_of(CONFIGS[name])
    images = torch.randn(2, 3, 96, 160)
    with_gradients = network.predict(images.requires_grad_())
    with torch.inference_mode():
        without = network.predict(images)
    assert torch.allclose(without.class_logits, with_gradients.class_logits, atol=1e-3)
    assert ((without.mask_logits > 0) == (with_gradients.mask_logits > 0)).double().mean() > 0.999


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_gives_nearly_the_same_masks(name: str) -> None:
    network = network_of(CONFIGS[name])
    images = torch.randn(1, 3, 96, 160)
    with torch.inference_mode():
        exact, rounded = network.predict(images), network.bfloat16().predict(images)
    assert rounded.mask_logits.dtype == rounded.class_logits.dtype == torch.float32
    assert ((exact.mask_logits > 0) == (rounded.mask_logits > 0)).double().mean() > 0.95
    assert not torch.equal(exact.mask_logits, rounded.mask_logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_does_not_depend_on_its_batch_mates(name: str) -> None:
    network = network_of(CONFIGS[name])
    images = torch.randn(3, 3, 96, 160)
    with torch.inference_mode():
        together = network.predict(images)
        for i in range(3):
            alone = network.predict(images[i : i + 1])
            assert torch.allclose(alone.class_logits[0], together.class_logits[i], atol=1e-4)
            assert torch.allclose(alone.mask_logits[0], together.mask_logits[i], atol=1e-2, rtol=1e-3)
            assert ((alone.mask_logits[0] > 0) == (together.mask_logits[i] > 0)).double().mean() > 0.9999


class Operations(TorchDispatchMode):
    """Names of everything that is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_waits_for_the_device(name: str, device: str) -> None:
    """`meta` stands for a GPU: another device than the one where constants are made, so that a forgotten copy shows."""
    network, images = network_of(CONFIGS[name]).to(device), torch.randn(1, 3, 96, 160, device=device)
    with torch.no_grad():
        network.predict(images)  # makes the constants of this size
        with Operations() as seen:
            network.predict(images)
    assert len(seen.names) > 100
    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "_to_copy")
    # Indexing by a bool tensor, `.item()` and copies between devices wait; the images are in the network's dtype, so nothing else converts.
    assert [name for name in seen.names if any(word in name for word in waiting)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_network_compiles_to_one_graph(name: str) -> None:
    network, images = network_of(CONFIGS[name]), torch.randn(1, 3, 96, 160)

    def predict(pixels: Tensor) -> tuple[Tensor, Tensor]:
        prediction = network.predict(pixels)
        return prediction.class_logits, prediction.mask_logits

    with torch.no_grad():
        plain = predict(images)
        traced = torch.compile(predict, backend="eager", fullgraph=True, dynamic=False)(images)
    for ours, theirs in zip(plain, traced, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)
    torch.compiler.reset()


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite_under_autocast(name: str) -> None:
    network = network_of(CONFIGS[name]).train().requires_grad_()
    images = torch.randn(1, 3, 96, 160)
    with torch.autocast("cpu", torch.bfloat16):
        network(images).mask_logits.float().square().mean().backward()
    gradients = [p.grad for name, p in network.named_parameters() if "backbone" in name and "output_norms.3" not in name]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
