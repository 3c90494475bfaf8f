"""Recorded kernels: the same results as run ones, for every size, in bounded memory."""

import pytest
import torch
from tests.conftest import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.cuda_graphs import GraphedNetwork
from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_replayed_equals_run() -> None:
    network = SegmentationNetwork(SMALL_CONFIG).eval().requires_grad_(False).cuda()
    graphed = GraphedNetwork(network, max_graphs=2)
    sizes = [(1, 64, 96), (2, 64, 96), (1, 96, 64)]
    with torch.inference_mode():
        for _ in range(4):
            for batch, height, width in sizes:
                images = torch.randn(batch, 3, height, width, device="cuda")
                want, got = network.predict(images), graphed.predict(images)
                assert torch.allclose(got.class_logits, want.class_logits, atol=1e-4)
                assert ((got.mask_logits > 0) == (want.mask_logits > 0)).double().mean() > 0.999
    assert graphed.recorded == [(2, 3, 64, 96), (1, 3, 96, 64)]


@pytest.mark.gpu
@needs_gpu
def test_results_are_the_callers_own() -> None:
    graphed = GraphedNetwork(SegmentationNetwork(SMALL_CONFIG).eval().requires_grad_(False).cuda())
    images = [torch.randn(1, 3, 64, 64, device="cuda") for _ in range(3)]
    with torch.inference_mode():
        graphed.predict(images[0])
        first = graphed.predict(images[1])
        kept = first.mask_logits.clone()
        graphed.predict(images[2])
    assert torch.equal(first.mask_logits, kept)


@pytest.mark.gpu
@needs_gpu
def test_nothing_waits_for_the_gpu() -> None:
    network = SegmentationNetwork(SMALL_CONFIG).eval().requires_grad_(False).cuda().bfloat16()
    images = torch.randn(2, 3, 96, 64, device="cuda")
    with torch.inference_mode():
        network.predict(images)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            network.predict(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_cpu_has_no_cuda_graphs() -> None:
    with pytest.raises(CheckpointError, match="CUDA graphs need a CUDA device, not cpu"):
        Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES, cuda_graphs=True)
