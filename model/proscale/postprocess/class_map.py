"""Class maps: the best class of every pixel, for networks that know no queries, or look window by window."""

from collections.abc import Iterable

import torch
from torch import Tensor

from proscale.ops.rle import map_runs
from proscale.postprocess.found import Found, Frames
from proscale.postprocess.resize import MAX_VALUES
from proscale.postprocess.rows import Resized, RowMap, dense_map, score_map, strips
from proscale.postprocess.semantic import best_classes
from proscale.predictions import DensePrediction, QueryPrediction, WindowPrediction, tensors_of

STRIP_VALUES = 2**20
"""Scores made at once on a CPU: 4 MiB, which its cache holds while they are resized, compared and summed. All at once take four times as
long (150 classes, 480x640 pixels, EPYC Genoa)."""


def find_classes(prediction: DensePrediction | QueryPrediction | WindowPrediction, frames: Frames, resize_twice: bool) -> Found:
    """One candidate per class that wins a pixel.

    Its score is the mean probability of the class over its pixels: the softmax of the classes' logits there, or for queries, whose scores
    are no logits, its share of all classes' scores.

    Args:
        prediction: of one picture.
        frames: the padded size is that of the network's input.
        resize_twice: logits go to the input's size first, as in mmsegmentation; what windows and queries say always does.
    """
    source = output_map(prediction, frames, resize_twice)
    logits = scores_are_logits(prediction)
    on_cpu = tensors_of(prediction)[0].device.type == "cpu"
    parts = strips(source, STRIP_VALUES if on_cpu else MAX_VALUES)
    winner, share = best_logits(parts) if logits else best_classes(parts)
    areas = winner.flatten().bincount(minlength=source.channels)
    sums = winner.flatten().bincount(share.flatten().double(), minlength=source.channels)
    return found_of_map(winner, areas, sums, frames.output)


def scores_are_logits(prediction: DensePrediction | QueryPrediction | WindowPrediction) -> bool:
    """Whether a network's scores of classes are logits; those of queries are sums of probabilities."""
    whole = prediction.windows if isinstance(prediction, WindowPrediction) else prediction
    return isinstance(whole, DensePrediction)


def output_map(prediction: DensePrediction | QueryPrediction | WindowPrediction, frames: Frames, resize_twice: bool) -> RowMap:
    """Scores of classes at the output's size; see `find_classes`."""
    if isinstance(prediction, DensePrediction) and not resize_twice:
        return Resized(dense_map(prediction, 0), frames.output)
    return Resized(score_map(prediction, frames.padded), frames.output)


def best_logits(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The best class of every pixel, and its probability.

    Args: logits (K, rows, W) of strips that follow each other from the top. Returns (H, W) int64, (H, W) float in 0..1.
    """
    winners, shares = [], []
    for logits in parts:
        best, winner = logits.max(0)
        winners.append(winner)
        shares.append(1 / (logits - best).exp_().sum(0))
    return torch.cat(winners), torch.cat(shares)


def found_of_map(winner: Tensor, areas: Tensor, sums: Tensor, size: tuple[int, int]) -> Found:
    """Classes on a map. Args: winner (H, W), pixels and summed scores per class (K,), size (H, W)."""
    present = areas.nonzero().flatten().tolist()
    table, means = [-1] * len(areas), (sums / areas.clamp_min(1)).tolist()
    for mask, label in enumerate(present):
        table[label] = mask
    candidates = [(label, means[label], mask) for mask, label in enumerate(present)]
    return Found(size, map_runs(winner.int()), table, len(present), candidates)
