"""Queries that start from the class of a segment, in training only (mask-piloted training: MP-Former, arXiv 2303.07336).

A pilot starts as the embedding of its segment's class, and in every layer attends inside the segment's true mask, blurred by noise.
It learns to finish what it is shown, and with it the layers that all queries share. Queries and pilots do not see each other, so the
queries' predictions are those of the network that is served.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.layers.attention import unblock_empty_rows
from proscale.predictions import QueryPrediction
from proscale.training.losses import Pairs, Truth
from proscale.transformer_decoder import TransformerDecoder


@dataclass(frozen=True)
class Pilots:
    """A batch's pilots: the same number P for every picture, of which `pairs` says which stand for what."""

    pairs: Pairs
    classes: Tensor
    """(B, P) int64, the class that each starts from, for some a wrong one; 0 where it stands for nothing."""
    shares: Tensor
    """(B, P, H / 4, W / 4) float."""


def choose_pilots(truth: Truth, limit: int, classes: int, wrong_share: float) -> Pilots:
    """A pilot for each segment of a picture, up to `limit` at random; `wrong_share` of them start from a random class."""
    device = truth.ids.device
    chosen = [torch.randperm(len(c))[:limit] for c in truth.classes]
    most = max((len(c) for c in chosen), default=0)
    height, width = truth.ids.shape[1] // 4, truth.ids.shape[2] // 4
    starts = torch.zeros(len(chosen), most, dtype=torch.int64, device=device)
    shares = torch.zeros(len(chosen), most, height, width, device=device)
    pairs = []
    for b, segments in enumerate(chosen):
        wrong = torch.rand(len(segments)) < wrong_share
        starts[b, : len(segments)] = torch.where(
            wrong.to(device), torch.randint(classes, (len(segments),)).to(device), truth.classes[b][segments]
        )
        shares[b, : len(segments)] = truth.shares[b][segments]
        pairs.append((torch.arange(len(segments)), segments))
    return Pilots(pairs, starts, shares)


def pilot_attention(shares: Tensor, size: Sequence[int], noise: float) -> Tensor:
    """Where pilots may attend: every cell that their mask touches, `noise` of all cells near it flipped.

    Args: shares (B, P, h, w), size of the level. Returns (B, P, size[0] * size[1]) bool.
    """
    if not shares.numel():
        return torch.zeros(*shares.shape[:2], size[0] * size[1], dtype=torch.bool, device=shares.device)
    inside = F.adaptive_max_pool2d(shares, tuple(size)) > 0.25
    near = F.max_pool2d(inside.float(), 3, stride=1, padding=1) > 0
    flipped = near & (torch.rand(inside.shape, device=shares.device) < noise)
    return unblock_empty_rows((inside ^ flipped).flatten(2))


class PilotedDecoder(nn.Module):
    """Runs a transformer decoder with pilots beside its queries; holds what pilots alone need."""

    def __init__(self, classes: int, dim: int, noise: float = 0.2) -> None:
        super().__init__()
        self.class_embedding = nn.Embedding(classes, dim)
        self.noise = noise

    def forward(
        self, decoder: TransformerDecoder, levels: Sequence[Tensor], mask_features: Tensor, pilots: Pilots
    ) -> tuple[tuple[QueryPrediction, ...], tuple[QueryPrediction, ...]]:
        """Decode.

        Returns:
            the layers + 1 predictions of the queries, as `decoder(levels, mask_features, auxiliary=True)` gives them, and the layers
            predictions of the pilots.
        """
        keys, values = decoder.memory(levels)
        count = len(decoder.query_features)
        embedded = self.class_embedding(pilots.classes)
        queries = torch.cat([decoder.query_features.expand(len(embedded), -1, -1).to(embedded.dtype), embedded], dim=1)
        position = torch.cat([decoder.query_position, decoder.query_position.new_zeros(embedded.shape[1:])])
        apart = torch.block_diag(torch.ones(count, count), torch.ones(embedded.shape[1], embedded.shape[1])).bool().to(embedded.device)
        prediction = decoder.predict(queries[:, :count], mask_features)
        predictions, piloted = [prediction], []
        for i, layer in enumerate(decoder.layers):
            size = levels[i % 3].shape[2:]
            allowed = decoder.attention_mask(predictions[-1].mask_logits, size)
            allowed = torch.cat([allowed, pilot_attention(pilots.shares, size, self.noise)], dim=1)
            queries = layer(queries, position, keys[i % 3], values[i % 3], allowed, apart)
            prediction = decoder.predict(queries, mask_features)
            predictions.append(QueryPrediction(prediction.class_logits[:, :count], prediction.mask_logits[:, :count]))
            piloted.append(QueryPrediction(prediction.class_logits[:, count:], prediction.mask_logits[:, count:]))
        return tuple(predictions), tuple(piloted)
