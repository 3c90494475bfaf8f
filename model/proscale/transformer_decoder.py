"""The masked-attention transformer decoder: queries -> class and mask logits (arXiv 2112.01527, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import TransformerDecoderConfig
from proscale.layers.attention import MultiHeadAttention, unblock_empty_rows
from proscale.layers.linear import products
from proscale.layers.mlp import MLP, FeedForward
from proscale.layers.position import sine_position_like
from proscale.predictions import QueryPrediction


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward: each with a residual and a norm after it."""

    def __init__(self, dim: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, heads)
        self.self_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, query_position: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, among: Tensor | None = None
    ) -> Tensor:
        """Args: queries (B, Q, C), query_position (Q, C), keys and values (B, L, C), allowed (B, Q, L) bool; among (Q, Q) bool says
        which queries see which (None: all see all). Returns (B, Q, C)."""
        queries = self.cross_norm(queries + self.cross_attention(queries + query_position, keys, values, allowed))
        positioned = queries + query_position
        queries = self.self_norm(queries + self.self_attention(positioned, positioned, queries, None if among is None else among[None]))
        out: Tensor = self.ffn_norm(queries + self.ffn(queries))
        return out


class TransformerDecoder(nn.Module):
    """Learnt queries refined layer by layer; layer i looks at level i mod 3, coarse to fine."""

    def __init__(self, config: TransformerDecoderConfig, dim: int, classes: int) -> None:
        super().__init__()
        self.query_features = nn.Parameter(torch.randn(config.queries, dim))
        self.query_position = nn.Parameter(torch.randn(config.queries, dim))
        self.level_embedding = nn.Parameter(torch.randn(3, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, config.heads, config.ffn_dim) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, classes + 1)
        self.mask_head = MLP((dim, dim, dim, dim))

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor, auxiliary: bool = False) -> tuple[QueryPrediction, ...]:
        """Decode.

        Args:
            levels: (B, C, h, w) at strides 32, 16, 8.
            mask_features: (B, C, H / 4, W / 4).
            auxiliary: True returns the prediction from the learnt queries and after every layer (deep supervision).

        Returns:
            layers + 1 predictions, or only the last.
        """
        keys, values = self.memory(levels)
        queries = self.query_features.expand(mask_features.shape[0], -1, -1)
        predictions = [self.predict(queries, mask_features)]
        for i, layer in enumerate(self.layers):
            allowed = self.attention_mask(predictions[-1].mask_logits, levels[i % 3].shape[2:])
            queries = layer(queries, self.query_position, keys[i % 3], values[i % 3], allowed)
            predictions.append(self.predict(queries, mask_features))
            if not auxiliary:
                del predictions[0]
        return tuple(predictions)

    def decode_last(self, levels: Sequence[Tensor], embedding: Tensor, mask_projection: nn.Conv2d) -> QueryPrediction:
        """The last prediction of `forward`, within rounding, without what only training needs.

        Resizing and the sum over channels commute, and so do the mask projection and that sum. So the attention masks are made from
        features that have been resized to their level once, instead of resizing every layer's masks, and the projection is applied to
        the queries instead of the pixels.

        Args:
            levels: (B, C, h, w) at strides 32, 16, 8.
            embedding: (B, C, H / 4, W / 4), the mask features before `mask_projection`.
            mask_projection: the 1x1 convolution that makes mask features of it.
        """
        keys, values = self.memory(levels)
        queries = self.query_features.expand(embedding.shape[0], -1, -1)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        resized = [_pixels(F.interpolate(embedding, size=size, mode="bilinear", align_corners=False)) for size in sizes]
        for i, layer in enumerate(self.layers):
            weights, bias = self._mask_weights(self.norm(queries), mask_projection)
            # A mask's probability is at least a half where its logit is at least 0.
            allowed = unblock_empty_rows(products(weights, resized[i % 3]) >= -bias)
            queries = layer(queries, self.query_position, keys[i % 3], values[i % 3], allowed)
        normed = self.norm(queries)
        weights, bias = self._mask_weights(normed, mask_projection)
        mask_logits = products(weights, _pixels(embedding)).float().add_(bias).unflatten(2, embedding.shape[2:])
        return QueryPrediction(self.class_head(normed).float(), mask_logits)

    def _mask_weights(self, normed: Tensor, mask_projection: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """What to multiply the pixel embedding with and add, (B, Q, C) and (B, Q, 1), to have the mask logits of normed queries."""
        assert mask_projection.bias is not None
        masks = self.mask_head(normed)
        return masks @ mask_projection.weight.flatten(1), (masks @ mask_projection.bias)[..., None]

    def memory(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values (B, h * w, C) of the levels: values carry the level's embedding, keys their position as well."""
        values = [level.flatten(2).transpose(1, 2) + embed for level, embed in zip(levels, self.level_embedding, strict=True)]
        keys = [v + sine_position_like(v, level.shape[2], level.shape[3]) for v, level in zip(values, levels, strict=True)]
        return keys, values

    def predict(self, queries: Tensor, mask_features: Tensor) -> QueryPrediction:
        """Class and mask logits of queries (B, Q, C)."""
        normed = self.norm(queries)
        mask_logits = torch.einsum("bqc,bchw->bqhw", self.mask_head(normed), mask_features)
        return QueryPrediction(self.class_head(normed), mask_logits)

    @staticmethod
    def attention_mask(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
        """Where a query may attend: inside its current mask, resized to the level.

        Args: mask_logits (B, Q, H / 4, W / 4), size (h, w). Returns (B, Q, h * w) bool, True = may attend.
        """
        resized = F.interpolate(mask_logits.detach(), size=tuple(size), mode="bilinear", align_corners=False)
        return unblock_empty_rows((resized.sigmoid() >= 0.5).flatten(2))


def _pixels(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C), without a copy where features are in channels_last."""
    return features.flatten(2).transpose(1, 2)
