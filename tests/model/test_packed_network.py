"""Packed weights: the same answers from every kind of network, and no second copy of the weights."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG
from tests.model.heads.test_folding import CONFIGS, VIT, randomise
from torch import Tensor, nn

from proscale.any_network import Network, build_network
from proscale.config import EomtModelConfig
from proscale.layers.linear import FixedLinear, linear, packed, packs
from proscale.packed_network import pack
from proscale.precision import cpu_bfloat16
from proscale.predictions import tensors_of
from proscale.predictor import Predictor

KINDS = {"proscale": SMALL_CONFIG, "eomt": EomtModelConfig("eomt", 5, replace(VIT, final_norm=True, taps=()), 7, 2), **CONFIGS}
needs_packing = pytest.mark.skipif(not packs(torch.float32), reason="torch's own products are taken on this processor")


def built(kind: str, dtype: torch.dtype = torch.float32) -> Network:
    network = build_network(KINDS[kind]).eval().requires_grad_(False)
    randomise(network)
    network.fold()
    return network.to(dtype)


def answers(network: Network, images: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return tensors_of(network.predict(images))


def weights(network: nn.Module) -> dict[int, int]:
    """Address -> bytes of what the linear layers hold."""
    found = {}
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.is_mkldnn:
            found[module.weight.untyped_storage().data_ptr()] = module.weight.untyped_storage().nbytes()
    return found


@needs_packing
@pytest.mark.parametrize("kind", KINDS)
def test_answers_stay_the_same(kind: str) -> None:
    network, images = built(kind), torch.randn(2, 3, 64, 96)
    want = answers(network, images)
    held = weights(network)
    pack(network)
    left = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and not module.weight.is_mkldnn]
    apart = ("in_projection", "sampling_offsets", "attention_weights", "blocks.2.attention.qkv" if "shrunk" in kind else "in_projection")
    assert all(name.endswith(apart) for name in left), left
    assert sum(weights(network).values()) < 0.5 * sum(held.values())
    for ours, theirs in zip(answers(network, images), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not cpu_bfloat16()[0], reason=cpu_bfloat16()[1])
@pytest.mark.parametrize("kind", ["proscale", "eomt", "segformer conv", "setr pup"])
def test_answers_in_bfloat16_stay_nearly_the_same(kind: str) -> None:
    network, images = built(kind, torch.bfloat16), torch.randn(1, 3, 64, 96)
    want = answers(network, images)
    pack(network)
    for ours, theirs in zip(answers(network, images), want, strict=True):
        assert float((ours - theirs).abs().mean()) < 0.02 * float(theirs.abs().mean())


@needs_packing
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_packed_layer_computes_what_its_weights_say(rows: int) -> None:
    layer, x = nn.Linear(37, 19), torch.randn(2, rows, 37)
    fixed = FixedLinear(packed(layer.weight), layer.bias)
    assert (fixed.in_features, fixed.out_features) == (37, 19)
    assert not fixed.state_dict()
    assert not list(fixed.parameters())
    with torch.no_grad():
        torch.testing.assert_close(fixed(x), layer(x))
        torch.testing.assert_close(linear(x, fixed.weight, None, "gelu"), nn.functional.gelu(x @ layer.weight.T), rtol=1e-4, atol=1e-5)


@needs_packing
def test_a_predictor_packs_and_its_compiled_twin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proscale.predictor.CompiledNetwork", lambda network, sizes: network)
    network = build_network(KINDS["eomt"])
    compiled = Predictor(copy.deepcopy(network), SMALL_CATEGORIES, compile_for=[(60, 80)])
    assert not any(module.weight.is_mkldnn for module in compiled.network.modules() if isinstance(module, nn.Linear))
    plain = Predictor(network, SMALL_CATEGORIES)
    assert all(module.weight.is_mkldnn for module in plain.network.modules() if isinstance(module, nn.Linear))


def test_nothing_is_packed_where_that_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proscale.packed_network.packs", lambda dtype: False)
    network, images = built("proscale"), torch.randn(1, 3, 64, 96)
    want = answers(network, images)
    pack(network)
    assert not any(module.weight.is_mkldnn for module in network.modules() if isinstance(module, nn.Linear))
    for ours, theirs in zip(answers(network, images), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
