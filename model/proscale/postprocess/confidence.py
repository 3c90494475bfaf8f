"""How sure a semantic result is of every pixel: the winner's share of all classes' scores, or its probability, as an 8-bit map."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proscale.postprocess.class_map import best_logits, output_map, scores_are_logits
from proscale.postprocess.found import Frames
from proscale.postprocess.resize import MAX_VALUES
from proscale.postprocess.rows import strips
from proscale.postprocess.semantic import best_classes, semantic_strips
from proscale.predictions import NetworkPrediction, QueryPrediction

SURE = 255
"""The value that means a confidence of 1."""


def confidence_map(prediction: NetworkPrediction, frames: Frames, *, combine_first: bool, resize_twice: bool) -> NDArray[np.uint8]:
    """The confidence of the winning class at every pixel, a few rows at a time.

    What is averaged over a segment's pixels is its score, so that the two agree.

    Args:
        prediction: of one picture.
        combine_first, resize_twice: as in `find_semantic` and `find_classes`.

    Returns:
        (H, W) uint8 at the output's size; 0..255 for 0..1, rounded.
    """
    if isinstance(prediction, QueryPrediction):
        parts = semantic_strips(
            prediction.class_logits[0], prediction.mask_logits[0], (frames.padded, frames.resized, frames.output), combine_first
        )
        return _shares(parts, logits=False)
    return _shares(strips(output_map(prediction, frames, resize_twice), MAX_VALUES), logits=scores_are_logits(prediction))


def _shares(parts: Iterable[Tensor], *, logits: bool) -> NDArray[np.uint8]:
    best = best_logits if logits else best_classes
    return np.concatenate([(best([scores])[1] * SURE).round().clamp(0, SURE).to(torch.uint8).cpu().numpy() for scores in parts])
