"""Multi-head attention with one packed projection matrix (Vaswani et al. 2017)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from proscale.layers.linear import FixedLinear, LinearForm, apply_linear, linear
from proscale.ops.attention import attention


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention; weights as in `nn.MultiheadAttention`: queries, keys and values stacked in that order."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_projection = nn.Linear(dim, 3 * dim)
        self.out_projection = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_projection.weight)
        nn.init.zeros_(self.in_projection.bias)
        nn.init.xavier_uniform_(self.out_projection.weight)
        nn.init.zeros_(self.out_projection.bias)
        self.apart: nn.ModuleList | None = None
        """Layers for queries, keys and values that take the place of `in_projection`; None: it is used."""

    def part(self) -> nn.ModuleList:
        """Make `in_projection` three layers with the same weights."""
        self.apart = nn.ModuleList(
            FixedLinear(weight, bias)
            for weight, bias in zip(self.in_projection.weight.chunk(3), self.in_projection.bias.chunk(3), strict=True)
        )
        return self.apart

    def _projections(self) -> list[Callable[[Tensor], Tensor]]:
        if self.apart is not None:
            layers = [layer for layer in self.apart if isinstance(layer, nn.Linear | LinearForm)]
            return [partial(apply_linear, layer) for layer in layers]
        weights, biases = self.in_projection.weight.chunk(3), self.in_projection.bias.chunk(3)
        return [partial(linear, weight=weight, bias=bias) for weight, bias in zip(weights, biases, strict=True)]

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Args: query (B, Q, C), key and value (B, L, C), allowed (B, Q, L) bool, see `attention`. Returns (B, Q, C)."""
        projected = (project(x) for project, x in zip(self._projections(), (query, key, value), strict=True))
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        return apply_linear(self.out_projection, attention(query, key, value, allowed))


def unblock_empty_rows(allowed: Tensor) -> Tensor:
    """A query that may attend nowhere attends everywhere (arXiv 2112.01527, section 3.2.1).

    Args: allowed (B, Q, L) bool. Returns the same shape with every all-False row turned all True.
    """
    return allowed | ~torch.any(allowed, -1, keepdim=True)
