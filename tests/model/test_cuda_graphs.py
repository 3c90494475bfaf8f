"""Recorded kernels: the same results as run ones, for every size, in bounded memory."""

from dataclasses import replace

import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.config import SwinConfig
from proscale.cuda_graphs import GraphedNetwork
from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork
from proscale.ops.native import STATUS, Status
from proscale.predictor import Predictor

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_a_replayed_graph_equals_a_run() -> None:
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
    # The third took the first's place, which came back the second time that it was wanted, and so took the second's.
    assert graphed.recorded == [(1, 3, 64, 96), (1, 3, 96, 64)]


def test_sizes_are_recorded_when_they_come_again_and_the_least_used_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sizes are recorded, without a GPU: a recording is stood in for by running the network."""
    network = SegmentationNetwork(SMALL_CONFIG).eval().requires_grad_(False)
    made = []

    class Rerun:
        def __init__(self, images: torch.Tensor) -> None:
            self.images, self.output = images.clone(), network.predict(images)
            self.graph, self.constants = self, ()
            made.append(tuple(images.shape))

        def replay(self) -> None:
            self.output = network.predict(self.images)

    graphed = GraphedNetwork(network, max_graphs=2)
    monkeypatch.setattr(graphed, "_record", Rerun)
    first, second, third = sizes = [(1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 64, 96)]
    with torch.inference_mode():
        for turn in range(4):
            for size in sizes:
                images = torch.randn(size)
                assert torch.equal(graphed.predict(images).mask_logits, network.predict(images).mask_logits), (turn, size)
    assert made == [first, second, third, first]
    assert graphed.recorded == [first, third]


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
def test_graphs_keep_tensors_that_caches_free() -> None:
    """Constants of a size are cached up to a number; a graph that was recorded before must not read what took their place."""
    config = replace(SMALL_CONFIG, backbone=SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 7))  # holds the most constants
    network = SegmentationNetwork(config).eval().requires_grad_(False).cuda()
    graphed = GraphedNetwork(network)
    images = torch.randn(1, 3, 64, 96, device="cuda")
    with torch.inference_mode():
        want = network.predict(images)
        for batch in range(1, 65):
            for _ in range(2 if batch == 1 else 1):
                graphed.predict(torch.randn(batch, 3, 64, 96, device="cuda"))
        # Takes the place of what was freed.
        _taken = [torch.full((size,), -1, dtype=torch.int64, device="cuda") for size in range(16, 4096, 16)]
        got = graphed.predict(images)
    assert graphed.recorded == [(1, 3, 64, 96)]
    assert torch.allclose(got.class_logits, want.class_logits, atol=1e-4)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_gpu() -> None:
    network = SegmentationNetwork(SMALL_CONFIG).eval().requires_grad_(False).cuda().bfloat16()
    images = torch.randn(2, 3, 96, 64, device="cuda")
    with torch.inference_mode():
        network.predict(images)
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            network.predict(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_cpu_has_no_cuda_graphs() -> None:
    with pytest.raises(CheckpointError, match="CUDA graphs need a CUDA device, not cpu"):
        Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES, cuda_graphs=True)


@pytest.mark.gpu
@needs_gpu
def test_without_the_compiled_operator_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pure-torch form waits for the GPU, which cannot be recorded."""
    monkeypatch.setattr("proscale.predictor.STATUS", Status(STATUS.cpu, STATUS.cpu_reason, False, "not built"))
    with pytest.raises(CheckpointError, match="CUDA graphs need the compiled CUDA operator; it is not active: not built"):
        Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES, device="cuda", cuda_graphs=True)
