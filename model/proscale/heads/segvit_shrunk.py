"""SegViT Shrunk's head (arXiv 2210.05844, section 3.3): a learnt query per patch reads the taps of a backbone that shrinks, deep ones too.

So tokens at the patches' resolution come back, and attention to mask reads those.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import SegvitHeadConfig
from proscale.heads.segvit import AtmLayer, AtmStage, atm_layers, atm_stages, read_with_masks, read_without_masks
from proscale.layers.linear import apply_linear
from proscale.predictions import QueryPrediction


class ShrunkSegvitHead(nn.Module):
    """Query upsampling, shallow tap to deep, and one stage of attention to mask."""

    def __init__(self, config: SegvitHeadConfig, dim: int, taps: int, classes: int) -> None:
        super().__init__()
        assert config.query_grid is not None
        self.grid = config.query_grid
        self.patch_queries = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], config.dim))
        self.stages = nn.ModuleList(AtmStage(config, dim) for _ in range(taps))
        """Shallow first; their masks are not used."""
        self.queries = nn.Parameter(torch.randn(classes, config.dim))
        self.layers = nn.ModuleList(AtmLayer(config.dim, config.heads) for _ in range(config.layers))
        self.class_head = nn.Linear(config.dim, classes + 1)

    def forward(self, features: Sequence[Tensor]) -> QueryPrediction:
        """Args: the taps' maps (B, C, h, w), shallow to deep. Returns class logits (B, K, K + 1), mask logits (B, K, h, w)."""
        batch, grid = features[0].shape[0], (features[0].shape[2], features[0].shape[3])
        tokens = self.queries_on(grid).expand(batch, -1, -1)
        for stage, feature in zip(atm_stages(self.stages), features, strict=True):
            memory = stage.memory(feature)
            for layer in stage.attention_layers:
                tokens, _ = layer(tokens, memory)
        queries, masks = self.queries.expand(batch, -1, -1), None
        for layer in atm_layers(self.layers):
            queries, masks = layer(queries, tokens)
        assert masks is not None
        return QueryPrediction(apply_linear(self.class_head, queries), masks.unflatten(-1, grid))

    def queries_on(self, grid: tuple[int, int]) -> Tensor:
        """(1, h * w, D): the patches' queries, resized like learnt positions where the grid is another."""
        return _on_grid(self.patch_queries, self.grid, grid)

    def fold(self) -> "ShortShrunkSegvitHead":
        """The short form of these weights, frozen."""
        return ShortShrunkSegvitHead(self)


class ShortShrunkSegvitHead(nn.Module):
    """The same, where self-attention among the learnt queries is computed once, and only the last layer makes logits.

    On another grid than the learnt one the patches' queries are resized first, so that their self-attention is computed every time.
    """

    learnt: Tensor
    patch_queries: Tensor
    queries: Tensor

    def __init__(self, head: ShrunkSegvitHead) -> None:
        super().__init__()
        self.grid, self.stages, self.layers, self.class_head = head.grid, head.stages, head.layers, head.class_head
        with torch.no_grad():
            among = atm_stages(head.stages)[0].attention_layers[0].among_queries(head.queries_on(head.grid))
            classes = atm_layers(head.layers)[0].among_queries(head.queries[None])
        for name, tensor in (("learnt", head.patch_queries), ("patch_queries", among), ("queries", classes)):
            self.register_buffer(name, tensor.detach().clone(), persistent=False)

    def forward(self, features: Sequence[Tensor]) -> QueryPrediction:
        """Args and result as `ShrunkSegvitHead.forward`."""
        batch, grid = features[0].shape[0], (features[0].shape[2], features[0].shape[3])
        began = grid == self.grid
        tokens = (self.patch_queries if began else _on_grid(self.learnt, self.grid, grid)).expand(batch, -1, -1)
        for stage, feature in zip(atm_stages(self.stages), features, strict=True):
            tokens, began = read_without_masks(stage.attention_layers, tokens, stage.memory(feature), began), False
        queries, masks = read_with_masks(atm_layers(self.layers), self.queries.expand(batch, -1, -1), tokens, began=True)
        return QueryPrediction(apply_linear(self.class_head, queries), masks.unflatten(-1, grid))


def _on_grid(queries: Tensor, learnt: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    if grid == learnt:
        return queries[None]
    there = queries.unflatten(0, learnt).permute(2, 0, 1)[None]
    return F.interpolate(there, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
