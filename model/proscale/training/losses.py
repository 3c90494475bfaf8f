"""The losses of mask classification: class, mask and dice of every prediction, and a dense one on the mask features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.predictions import QueryPrediction
from proscale.training.cells import STRIDE, cell_shares
from proscale.training.config import LossConfig
from proscale.training.matcher import match

UNCERTAIN_SHARE = 0.75


@dataclass(frozen=True)
class Truth:
    """The segments of a batch, as the losses need them."""

    ids: Tensor
    """(B, H, W) int64, 0 = void, i = segment i."""
    classes: tuple[Tensor, ...]
    """Per picture (N,) int64, class of segment i at i - 1."""
    shares: tuple[Tensor, ...]
    """Per picture (N, H / 4, W / 4) float, see `cell_shares`."""

    @staticmethod
    def of(ids: Tensor, classes: Sequence[Tensor]) -> "Truth":
        """From ids and classes alone."""
        return Truth(ids, tuple(classes), tuple(cell_shares(picture, len(c)) for picture, c in zip(ids, classes, strict=True)))


@dataclass(frozen=True)
class Totals:
    """What the losses' sums are divided by, known from the truth alone.

    Of a batch in several parts (accumulated, or on several processes) every part divides by the totals of the whole, so that the parts'
    gradients add up to the whole batch's.
    """

    segments: float
    """Segments that a query answers for, void aside."""
    class_weight: float
    """Sum of the class weights of all queries."""
    pilots: float
    labelled: float
    """Cells whose class is known."""

    @staticmethod
    def of(truth: Truth, queries: int, config: LossConfig) -> "Totals":
        """Of one part."""
        segments = sum(min(len(c), queries) for c in truth.classes)
        void = len(truth.classes) * queries - segments
        pilots = sum(min(len(c), config.pilots) for c in truth.classes)
        labelled = int((_cell_ids(truth.ids) > 0).sum())
        return Totals(segments, segments + config.void_weight * void, pilots, labelled)


@dataclass(frozen=True)
class Losses:
    """Unweighted means of one prediction, for the log, and the weighted sum."""

    total: Tensor
    classification: Tensor
    mask: Tensor
    dice: Tensor


Pairs = Sequence[tuple[Tensor, Tensor]]
"""Per picture: queries (M,) and the segments (M,) they answer for."""


def undecided_cells(mask_logits: Tensor, count: int) -> Tensor:
    """Indices (M, count) of cells: those nearest to a logit of 0 for three quarters, any others for the rest (PointRend, arXiv 1912.08193).

    Args: mask_logits (M, c).
    """
    uncertain = int(UNCERTAIN_SHARE * count)
    nearest = mask_logits.abs().topk(uncertain, dim=1, largest=False, sorted=False).indices
    anywhere = torch.randint(mask_logits.shape[1], (len(mask_logits), count - uncertain), device=mask_logits.device)
    return torch.cat([nearest, anywhere], dim=1)


def mask_loss(mask_logits: Tensor, target: Tensor, points: int) -> Tensor:
    """Binary cross-entropy, mean over `points` cells of which most are undecided (all cells if there are no more), sum over masks.

    Args: (M, c) logits and targets in 0..1.
    """
    if mask_logits.shape[1] > points:
        with torch.no_grad():
            chosen = undecided_cells(mask_logits, points)
        mask_logits, target = mask_logits.gather(1, chosen), target.gather(1, chosen)
    return F.binary_cross_entropy_with_logits(mask_logits, target, reduction="none").mean(1).sum()


def dice_loss(mask_logits: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient (smoothed by 1) over all cells, sum over masks. Args: (M, c) logits and targets in 0..1."""
    probability = mask_logits.sigmoid()
    return (1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)).sum()


def match_pictures(prediction: QueryPrediction, truth: Truth, config: LossConfig) -> Pairs:
    """The cheapest assignment of every picture of the batch."""
    weights = (config.class_weight, config.mask_weight, config.dice_weight)
    return [
        match(class_logits, mask_logits, shares, classes, weights, config.matching_points)
        for class_logits, mask_logits, shares, classes in zip(
            prediction.class_logits, prediction.mask_logits, truth.shares, truth.classes, strict=True
        )
    ]


def prediction_losses(prediction: QueryPrediction, truth: Truth, pairs: Pairs, config: LossConfig, totals: Totals) -> Losses:
    """Compare each query with the segment it answers for; the others are to say void.

    Args:
        prediction: for a batch of B pictures.
        pairs: for each of them.
    """
    class_logits, mask_logits = prediction.class_logits.float(), prediction.mask_logits.float()
    void = class_logits.shape[2] - 1
    targets = torch.full(class_logits.shape[:2], void, device=class_logits.device)
    for b, (queries, segments) in enumerate(pairs):
        targets[b, queries] = truth.classes[b][segments]
    class_weights = torch.ones(void + 1, device=class_logits.device)
    class_weights[void] = config.void_weight
    classification = F.cross_entropy(class_logits.flatten(0, 1), targets.flatten(), class_weights, reduction="sum") / totals.class_weight
    mask, dice = (loss / max(totals.segments, 1) for loss in _mask_losses(mask_logits, truth, pairs, config))
    total = config.class_weight * classification + config.mask_weight * mask + config.dice_weight * dice
    return Losses(total, classification, mask, dice)


def pilot_losses(prediction: QueryPrediction, truth: Truth, pairs: Pairs, config: LossConfig, totals: Totals) -> Tensor:
    """Weighted sum for pilots: only those in `pairs` count, and none has to predict void."""
    class_logits = torch.cat([prediction.class_logits[b, queries].float() for b, (queries, _) in enumerate(pairs)])
    targets = torch.cat([truth.classes[b][segments] for b, (_, segments) in enumerate(pairs)])
    mask, dice = _mask_losses(prediction.mask_logits.float(), truth, pairs, config)
    classification = F.cross_entropy(class_logits, targets, reduction="sum")
    return (config.class_weight * classification + config.mask_weight * mask + config.dice_weight * dice) / max(totals.pilots, 1)


def _mask_losses(mask_logits: Tensor, truth: Truth, pairs: Pairs, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Mask and dice loss, sums over all pairs; (B, Q, h, w) logits."""
    matched = torch.cat([mask_logits[b, queries] for b, (queries, _) in enumerate(pairs)]).flatten(1)
    if not len(matched):
        zero = mask_logits.sum() * 0
        return zero, zero
    target = torch.cat([truth.shares[b][segments] for b, (_, segments) in enumerate(pairs)]).flatten(1)
    return mask_loss(matched, target, config.points), dice_loss(matched, target)


def _cell_ids(ids: Tensor) -> Tensor:
    """The id at the middle of every cell, (B, H / 4, W / 4)."""
    return ids[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def dense_loss(dense_logits: Tensor, truth: Truth, totals: Totals) -> Tensor:
    """Cross-entropy of the class at every cell, void left out: an early signal for the mask features.

    Args:
        dense_logits: (B, K, H / 4, W / 4), a 1x1 convolution of the mask features that only exists in training.
    """
    ignored = -100
    cells = zip(_cell_ids(truth.ids), truth.classes, strict=True)
    targets = torch.stack([torch.cat([c.new_tensor([ignored]), c])[picture] for picture, c in cells])
    return F.cross_entropy(dense_logits.float(), targets, ignore_index=ignored, reduction="sum") / max(totals.labelled, 1)


def total_loss(
    predictions: Sequence[QueryPrediction],
    pilots: Sequence[QueryPrediction],
    pilot_pairs: Pairs,
    dense_logits: Tensor,
    truth: Truth,
    config: LossConfig,
    totals: Totals,
) -> tuple[Tensor, Losses]:
    """Deep supervision: the sum over all predictions of queries and pilots, plus the dense loss; and the last prediction's parts."""
    every = [prediction_losses(p, truth, match_pictures(p, truth, config), config, totals) for p in predictions]
    parts = [losses.total for losses in every]
    parts += [config.pilot_weight * pilot_losses(p, truth, pilot_pairs, config, totals) for p in pilots]
    return torch.stack(parts).sum() + config.dense_weight * dense_loss(dense_logits, truth, totals), every[-1]
