"""SegViT's head, attention to mask (arXiv 2210.05844, section 3): one query per class; where it attends is its mask."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proscale.config import SegvitHeadConfig
from proscale.layers.attention import MultiHeadAttention
from proscale.layers.linear import apply_linear
from proscale.layers.mlp import FeedForward
from proscale.ops.attention import attention
from proscale.predictions import QueryPrediction


class MaskAttention(nn.Module):
    """Cross-attention whose logits, before the softmax and averaged over heads, are masks."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.projection = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Args: queries (B, K, D), memory (B, N, D). Returns what was attended to (B, K, D), and masks (B, K, N)."""
        return self.attend(queries, apply_linear(self.key, memory), apply_linear(self.value, memory))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for keys and values (B, N, D) that have been made."""
        query, key, value = self._heads(queries, keys, values)
        logits = (query / math.sqrt(query.shape[-1])) @ key.transpose(2, 3)
        out = logits.softmax(-1) @ value
        return apply_linear(self.projection, out.transpose(1, 2).flatten(2)), logits.mean(1)

    def attend_only(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`attend` without masks, which never makes the logits of all heads."""
        return apply_linear(self.projection, attention(*self._heads(queries, keys, values)))

    def _heads(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (apply_linear(self.query, queries), keys, values))
        return query, key, value


class AtmLayer(nn.Module):
    """Self-attention among queries, attention to tokens, feed-forward; a norm after each."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = MaskAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, 4 * dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Args: queries (B, K, D), memory (B, N, D). Returns the queries refined, and their masks (B, K, N)."""
        queries = self.among_queries(queries)
        seen, masks = self.cross_attention(queries, memory)
        return self.after_tokens(queries, seen), masks

    def among_queries(self, queries: Tensor) -> Tensor:
        """The layer's first third, self-attention among the queries: (B, K, D) -> (B, K, D)."""
        out: Tensor = self.norm1(queries + self.self_attention(queries, queries, queries))
        return out

    def after_tokens(self, queries: Tensor, seen: Tensor) -> Tensor:
        """What follows the attention to tokens. Args: (B, K, D) each. Returns (B, K, D)."""
        queries = self.norm2(queries + seen)
        out: Tensor = self.norm3(queries + self.ffn(queries))
        return out


class AtmStage(nn.Module):
    """One tap: its tokens at the decoder's width, and the layers that read them."""

    def __init__(self, config: SegvitHeadConfig, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(AtmLayer(config.dim, config.heads) for _ in range(config.layers))

    @property
    def attention_layers(self) -> list[AtmLayer]:
        """`layers`, with their type."""
        return atm_layers(self.layers)

    def memory(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h * w, D)."""
        out: Tensor = self.norm(apply_linear(self.projection, feature.permute(0, 2, 3, 1).flatten(1, 2)))
        return out


class SegvitHead(nn.Module):
    """Stages from the deepest tap to the shallowest; the masks of all are summed."""

    def __init__(self, config: SegvitHeadConfig, dim: int, taps: int, classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(classes, config.dim))
        self.stages = nn.ModuleList(AtmStage(config, dim) for _ in range(taps))
        """Deepest first."""
        self.class_head = nn.Linear(config.dim, classes + 1)

    def forward(self, features: Sequence[Tensor]) -> QueryPrediction:
        """Args: the taps' maps (B, C, h, w), shallow to deep. Returns class logits (B, K, K + 1), mask logits (B, K, h, w)."""
        queries = self.queries.expand(features[0].shape[0], -1, -1)
        masks = None
        for stage, feature in zip(atm_stages(self.stages), reversed(features), strict=True):
            memory = stage.memory(feature)
            for layer in stage.attention_layers:
                queries, mask = layer(queries, memory)
            masks = mask if masks is None else masks + mask  # of the stage's last layer
        assert masks is not None
        return QueryPrediction(apply_linear(self.class_head, queries), masks.unflatten(-1, features[0].shape[2:]))

    def fold(self) -> "ShortSegvitHead":
        """The short form of these weights, frozen."""
        return ShortSegvitHead(self)


class ShortSegvitHead(nn.Module):
    """The same without what does not depend on the picture, or is not used.

    The first layer's self-attention is among learnt queries: it is computed once. Only each stage's last layer makes logits.
    """

    queries: Tensor

    def __init__(self, head: SegvitHead) -> None:
        super().__init__()
        self.stages, self.class_head = head.stages, head.class_head
        first = atm_stages(head.stages)[0].attention_layers[0]
        with torch.no_grad():
            self.register_buffer("queries", first.among_queries(head.queries[None]).detach().clone(), persistent=False)

    def forward(self, features: Sequence[Tensor]) -> QueryPrediction:
        """Args and result as `SegvitHead.forward`."""
        queries, masks = self.queries.expand(features[0].shape[0], -1, -1), None
        for stage, feature in zip(atm_stages(self.stages), reversed(features), strict=True):
            queries, mask = read_with_masks(stage.attention_layers, queries, stage.memory(feature), began=masks is None)
            masks = mask if masks is None else masks.add_(mask)
        assert masks is not None
        return QueryPrediction(apply_linear(self.class_head, queries), masks.unflatten(-1, features[0].shape[2:]))


def atm_stages(stages: nn.ModuleList) -> list[AtmStage]:
    """The stages of a list, with their type."""
    return [stage for stage in stages if isinstance(stage, AtmStage)]


def atm_layers(layers: nn.ModuleList) -> list[AtmLayer]:
    """The layers of a list, with their type."""
    return [layer for layer in layers if isinstance(layer, AtmLayer)]


def read_with_masks(layers: Sequence[AtmLayer], queries: Tensor, memory: Tensor, began: bool) -> tuple[Tensor, Tensor]:
    """Layers over the same tokens; only the last makes masks.

    Args:
        queries: (B, K, D).
        memory: (B, N, D).
        began: the queries come from the first layer's self-attention.

    Returns:
        the queries refined (B, K, D), and the last layer's masks (B, K, N).
    """
    keys, values = _keys_and_values(layers, memory)
    queries = read(layers[:-1], queries, keys, values, began)
    if not (began and len(layers) == 1):
        queries = layers[-1].among_queries(queries)
    seen, masks = layers[-1].cross_attention.attend(queries, keys[-1], values[-1])
    return layers[-1].after_tokens(queries, seen), masks


def read_without_masks(layers: Sequence[AtmLayer], queries: Tensor, memory: Tensor, began: bool) -> Tensor:
    """`read_with_masks` where the masks are not used. Returns the queries refined (B, K, D)."""
    return read(layers, queries, *_keys_and_values(layers, memory), began)


def read(layers: Sequence[AtmLayer], queries: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], began: bool) -> Tensor:
    """`read_without_masks` for keys and values (B, N, D) of every layer that have been made."""
    for i, (layer, key, value) in enumerate(zip(layers, keys, values, strict=False)):
        queries = queries if began and not i else layer.among_queries(queries)
        queries = layer.after_tokens(queries, layer.cross_attention.attend_only(queries, key, value))
    return queries


def _keys_and_values(layers: Sequence[AtmLayer], memory: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Of every layer, from tokens (B, N, D)."""
    attentions = [layer.cross_attention for layer in layers]
    return tuple(apply_linear(each.key, memory) for each in attentions), tuple(apply_linear(each.value, memory) for each in attentions)
