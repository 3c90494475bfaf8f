"""Multi-head attention with one packed projection matrix (Vaswani et al. 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.layers.linear import apply_linear, linear


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

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Args: query (B, Q, C), key and value (B, L, C), allowed (B, Q, L) bool, True where attention may go. Returns (B, Q, C)."""
        weights = self.in_projection.weight.chunk(3)
        biases = self.in_projection.bias.chunk(3)
        query, key, value = (
            linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return apply_linear(self.out_projection, out.transpose(1, 2).flatten(2))


def unblock_empty_rows(allowed: Tensor) -> Tensor:
    """A query that may attend nowhere attends everywhere (arXiv 2112.01527, section 3.2.1).

    Args: allowed (B, Q, L) bool. Returns the same shape with every all-False row turned all True.
    """
    return allowed | ~torch.any(allowed, -1, keepdim=True)
