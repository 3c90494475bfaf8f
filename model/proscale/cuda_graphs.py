"""A network's kernels recorded once per size and replayed: on a GPU, launching a small kernel can take longer than running it."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proscale.any_network import Network
from proscale.ops.constants import collected_constants
from proscale.predictions import NetworkPrediction, tensors_of, with_tensors

WARM_UP_RUNS = 3
"""Runs before recording: they choose algorithms, allocate work space and make the constants of a size."""


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    output: NetworkPrediction
    constants: tuple[Tensor, ...]
    """What the kernels read besides images and weights: kept, because a graph knows addresses and no owners."""


class GraphedNetwork:
    """A network's `predict` from CUDA graphs, one per batch and padded size.

    Every graph holds the memory of its inputs and results, and all share what lies between; the graph that was used least recently
    goes when there are more than `max_graphs`. A size is recorded when it comes for the second time, also after its graph went: rare
    sizes run as they are.
    """

    def __init__(self, network: Network, max_graphs: int = 32) -> None:
        if max_graphs < 1:
            raise ValueError(f"max_graphs must be at least 1, not {max_graphs}")
        self.network, self.max_graphs = network, max_graphs
        self._graphs: OrderedDict[tuple[int, ...], _Recorded] = OrderedDict()
        self._seen: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._lock = threading.Lock()
        # One of each for all recordings: what one of them freed is reused by others of the same pool and stream alone.
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def recorded(self) -> list[tuple[int, ...]]:
        """Shapes (B, 3, H, W) that have a graph, the most recently used last."""
        return list(self._graphs)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> NetworkPrediction:
        """See the network's `predict`; images (B, 3, H, W) on the GPU. The result is the caller's own."""
        with self._lock:
            key = tuple(images.shape)
            if key not in self._graphs:
                if key not in self._seen:
                    self._remember(key)
                    return self.network.predict(images)
                self._graphs[key] = self._record(images)
                while len(self._graphs) > self.max_graphs:
                    gone, _ = self._graphs.popitem(last=False)
                    self._seen.pop(gone, None)
            self._graphs.move_to_end(key)
            recorded = self._graphs[key]
            recorded.images.copy_(images)
            recorded.graph.replay()
            return with_tensors(recorded.output, [tensor.clone() for tensor in tensors_of(recorded.output)])

    def _remember(self, key: tuple[int, ...]) -> None:
        self._seen[key] = None
        while len(self._seen) > 16 * self.max_graphs:
            self._seen.popitem(last=False)

    def _record(self, images: Tensor) -> _Recorded:
        static = images.clone()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream = stream = self._stream or torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self.network.predict(static)
        torch.cuda.current_stream(images.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy pictures to the GPU meanwhile; only what this thread does is recorded.
        with (
            collected_constants() as constants,
            torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
        ):
            output = self.network.predict(static)
        return _Recorded(graph, static, output, tuple(constants))
