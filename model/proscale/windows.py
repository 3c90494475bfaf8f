"""Networks that look at a picture window by window: where the windows lie, and their batch."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from proscale.config import SlideConfig
from proscale.geometry import window_places
from proscale.predictions import DensePrediction, NetworkPrediction, QueryPrediction, WindowPrediction, tensors_of, with_tensors

MAX_WINDOW_PIXELS = 2**21
"""Pixels of windows that go through the network at once."""


def in_windows(
    predict: Callable[[Tensor], DensePrediction | QueryPrediction], images: Tensor, slide: SlideConfig | None
) -> NetworkPrediction:
    """`predict` of a batch, or of all its windows, a few at a time.

    Args:
        images: (B, 3, H, W).
        slide: None: the batch is looked at as a whole, as are pictures that are no larger than a window.
    """
    if slide is None:
        return predict(images)
    places, size = window_places((images.shape[2], images.shape[3]), slide)
    if len(places) == 1:
        return predict(images)
    windows = torch.stack([images[:, :, y : y + size[0], x : x + size[1]] for y, x in places], 1).flatten(0, 1)
    parts = [predict(part) for part in windows.split(max(1, MAX_WINDOW_PIXELS // math.prod(size)))]
    joined = with_tensors(parts[0], [torch.cat(tensors) for tensors in zip(*map(tensors_of, parts), strict=True)])
    assert not isinstance(joined, WindowPrediction)
    return WindowPrediction(tuple(places), size, joined)
