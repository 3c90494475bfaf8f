"""One layer of the pixel decoder's transformer encoder: deformable attention, then the feed-forward block, post-norm."""

from collections.abc import Sequence

from torch import Tensor, nn

from proscale.layers.deformable_attention import DeformableAttention
from proscale.layers.mlp import FeedForward
from proscale.layers.tokenwise import add_into, in_chunks


class EncoderLayer(nn.Module):
    """A layer for a fixed number of levels; its offsets and weights are sized for them."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, ffn_dim: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, spatial_shapes: Sequence[int]) -> Tensor:
        """Args: tokens (B, N, C), position (N, C) added to the queries only, spatial_shapes h0, w0, ... Returns (B, N, C)."""
        tokens = self.norm1(add_into(self.attention(tokens + position, tokens, spatial_shapes), tokens))
        return in_chunks(self._feed_forward, tokens, self.ffn.linear1.out_features)

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.norm2(add_into(self.ffn(tokens), tokens))
        return out
