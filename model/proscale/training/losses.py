"""The losses of mask classification: class, mask and dice of every prediction, and a dense one on the mask features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.network import NetworkOutput
from proscale.predictions import QueryPrediction
from proscale.training.config import LossConfig
from proscale.training.matcher import match
from proscale.training.points import sample_ids, sample_logits, uncertain_points


@dataclass(frozen=True)
class Losses:
    """Unweighted means of one prediction, for the log, and the weighted sum."""

    total: Tensor
    classification: Tensor
    mask: Tensor
    dice: Tensor


def mask_loss(sampled: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over points, sum over masks. Args: (M, P) logits and 0/1 targets."""
    return F.binary_cross_entropy_with_logits(sampled, target, reduction="none").mean(1).sum()


def dice_loss(sampled: Tensor, target: Tensor) -> Tensor:
    """1 - Dice coefficient (smoothed by 1), sum over masks. Args: (M, P) logits and 0/1 targets."""
    probability = sampled.sigmoid()
    return (1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)).sum()


def prediction_losses(prediction: QueryPrediction, ids: Tensor, classes: Sequence[Tensor], config: LossConfig) -> Losses:
    """Match every picture's queries to its segments, then compare.

    Args:
        prediction: for a batch of B pictures.
        ids: (B, H, W) int64, 0 = void, i = segment i.
        classes: B tensors (N,) int64, class of segment i at i - 1.
    """
    class_logits, mask_logits = prediction.class_logits.float(), prediction.mask_logits.float()
    void = class_logits.shape[2] - 1
    targets = torch.full(class_logits.shape[:2], void, device=class_logits.device)
    masks, numbers, pictures = [], [], []
    for b, segment_classes in enumerate(classes):
        weights = (config.class_weight, config.mask_weight, config.dice_weight)
        queries, segments = match(class_logits[b], mask_logits[b], ids[b], segment_classes, config.points, weights)
        targets[b, queries] = segment_classes[segments]
        masks.append(mask_logits[b, queries])
        numbers.append(segments + 1)
        pictures.append(torch.full((len(segments),), b))
    class_weights = torch.ones(void + 1, device=class_logits.device)
    class_weights[void] = config.void_weight
    classification = F.cross_entropy(class_logits.flatten(0, 1), targets.flatten(), class_weights)
    matched = torch.cat(masks)
    if not len(matched):
        zero = mask_logits.sum() * 0
        return Losses(config.class_weight * classification + zero, classification, zero, zero)
    with torch.no_grad():
        points = uncertain_points(matched, config.points)
        target = (sample_ids(ids[torch.cat(pictures)], points) == torch.cat(numbers).to(ids.device)[:, None]).float()
    sampled = sample_logits(matched, points)
    mask, dice = (loss(sampled, target) / len(matched) for loss in (mask_loss, dice_loss))
    total = config.class_weight * classification + config.mask_weight * mask + config.dice_weight * dice
    return Losses(total, classification, mask, dice)


def dense_loss(dense_logits: Tensor, ids: Tensor, classes: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of the class at every pixel, void left out: an early signal for the mask features.

    Args:
        dense_logits: (B, K, H / 4, W / 4), a 1x1 convolution of the mask features that only exists in training.
        ids, classes: as above.
    """
    ignored = -100
    targets = torch.stack([torch.cat([c.new_tensor([ignored]), c])[picture[2::4, 2::4]] for picture, c in zip(ids, classes, strict=True)])
    if not (targets != ignored).any():
        return dense_logits.sum() * 0
    return F.cross_entropy(dense_logits.float(), targets, ignore_index=ignored)


def total_loss(
    output: NetworkOutput, dense_logits: Tensor, ids: Tensor, classes: Sequence[Tensor], config: LossConfig
) -> tuple[Tensor, Losses]:
    """Deep supervision: the sum over all predictions, plus the dense loss; and the last prediction's parts."""
    every = [prediction_losses(prediction, ids, classes, config) for prediction in output.predictions]
    dense = dense_loss(dense_logits, ids, classes)
    return torch.stack([losses.total for losses in every]).sum() + config.dense_weight * dense, every[-1]
