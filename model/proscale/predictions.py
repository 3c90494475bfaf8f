"""What networks say about a batch of pictures: classes and masks of queries, or a class map; whole or window by window."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class QueryPrediction:
    """What queries say: a class and a mask each."""

    class_logits: Tensor
    """(B, Q, K + 1) float; the last class is void."""
    mask_logits: Tensor
    """(B, Q, h, w) float, frame: the network's input, smaller by a stride."""


@dataclass(frozen=True)
class DensePrediction:
    """What a network for semantic segmentation says: a score per class and place."""

    logits: Tensor
    """(B, K, h, w) float, frame: the network's input, smaller by a stride."""
    upscale: int = 1
    """Resize the logits by this factor before anything else: what the network does last commutes with all before it."""


@dataclass(frozen=True)
class WindowPrediction:
    """What a network says that looked at its input window by window."""

    places: tuple[tuple[int, int], ...]
    """(top, left) of every window in pixels of the input."""
    size: tuple[int, int]
    """(height, width) of every window."""
    windows: QueryPrediction | DensePrediction
    """Of all pictures' windows: the first picture's, then the second's; frame: the window."""


NetworkPrediction = QueryPrediction | DensePrediction | WindowPrediction


def tensors_of(prediction: NetworkPrediction) -> tuple[Tensor, ...]:
    """Its tensors; the first dimension is pictures, or all pictures' windows."""
    if isinstance(prediction, WindowPrediction):
        return tensors_of(prediction.windows)
    if isinstance(prediction, DensePrediction):
        return (prediction.logits,)
    return prediction.class_logits, prediction.mask_logits


def with_tensors(prediction: NetworkPrediction, tensors: Sequence[Tensor]) -> NetworkPrediction:
    """The same kind of prediction with other tensors, in the order of `tensors_of`."""
    if isinstance(prediction, WindowPrediction):
        windows = with_tensors(prediction.windows, tensors)
        assert not isinstance(windows, WindowPrediction)
        return replace(prediction, windows=windows)
    if isinstance(prediction, DensePrediction):
        (logits,) = tensors
        return replace(prediction, logits=logits)
    class_logits, mask_logits = tensors
    return QueryPrediction(class_logits, mask_logits)


def of_picture(prediction: NetworkPrediction, index: int) -> NetworkPrediction:
    """One picture's part of a batch's prediction, still with the first dimension."""
    count = len(prediction.places) if isinstance(prediction, WindowPrediction) else 1
    return with_tensors(prediction, [tensor[index * count : (index + 1) * count] for tensor in tensors_of(prediction)])
