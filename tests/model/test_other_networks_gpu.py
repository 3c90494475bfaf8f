"""EoMT, SegFormer, SETR and SegViT on a GPU: what the CPU says, recorded kernels, bfloat16."""

import pytest
import torch
from tests.model.heads.test_folding import CONFIGS, randomise

from proscale.any_network import Network, build_network
from proscale.config import EomtModelConfig, NetworkConfig, VitConfig
from proscale.cuda_graphs import GraphedNetwork
from proscale.predictions import tensors_of

VIT = VitConfig(24, 4, 3, 40, grid=(4, 6), class_token=True, registers=2, layer_scale=True, final_norm=True)
ROTARY = VitConfig(24, 4, 3, 40, position="rotary", class_token=True, registers=2, layer_scale=True, final_norm=True)
NETWORKS: dict[str, NetworkConfig] = {
    **CONFIGS,
    "eomt": EomtModelConfig("x", 5, VIT, 7, 2),
    "eomt, rotary": EomtModelConfig("x", 5, ROTARY, 7, 2, masked_attention=True),
}
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]


def made(name: str) -> Network:
    network = build_network(NETWORKS[name]).eval().requires_grad_(False)
    randomise(network)
    network.fold()
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_results_on_gpu_and_cpu_agree(name: str) -> None:
    network, images = made(name), torch.randn(2, 3, 64, 96)
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        want = tensors_of(network.predict(images))
        got = tensors_of(network.cuda().predict(images.cuda()))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replayed_graph_equals_a_run(name: str) -> None:
    network = made(name).cuda()
    graphed = GraphedNetwork(network)
    with torch.inference_mode():
        for _ in range(3):
            images = torch.randn(2, 3, 64, 96, device="cuda")
            for got, want in zip(tensors_of(graphed.predict(images)), tensors_of(network.predict(images)), strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert graphed.recorded == [(2, 3, 64, 96)]


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_results_are_close(name: str) -> None:
    network, images = made(name).cuda(), torch.randn(1, 3, 64, 96, device="cuda")
    with torch.inference_mode():
        want = tensors_of(network.predict(images))
        got = tensors_of(network.to(torch.bfloat16).predict(images))
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().mean() < 0.1 * theirs.abs().mean() + 0.05
