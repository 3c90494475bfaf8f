"""Batches: how many pictures go together, and how one that fails is kept from spoiling the others. No torch.

The service's engine and the Triton worker share this, so that both compute alike.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from proscale.errors import DeviceError
from proscale.results import Prediction

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")


def budget_pixels(padded: tuple[int, int], output: tuple[int, int]) -> int:
    """What a picture takes of a batch's budget: the network's cost goes with its padded size, post-processing with its own.

    Args: (height, width) in pixels.
    """
    return max(padded[0] * padded[1], output[0] * output[1])


@dataclass(frozen=True)
class Outcome:
    """What became of one picture of a batch: a prediction or an error."""

    prediction: Prediction | None
    error: Exception | None
    batch_size: int
    """Pictures computed together with this one, itself included."""
    opens_batch: bool = False
    """The first of these."""


def compute_batch(
    compute: Callable[[Sequence[Item]], Sequence[Prediction]],
    items: Sequence[Item],
    gone: Callable[[Item], bool] = lambda item: False,
) -> list[Outcome | None]:
    """Compute pictures together; when that fails, singly, so that one picture's fault stays its own.

    Args:
        gone: whether nobody waits for an item any more; asked before it is computed singly.

    Returns:
        one outcome per item, in order; None for an item that was left out because nobody waits.

    Raises:
        DeviceError: the GPU failed for good.
    """
    if not items:
        return []
    predictions: Sequence[Prediction] = ()
    try:
        predictions = _counted(compute(items), len(items))
    except DeviceError:
        raise
    except Exception as error:
        if len(items) == 1:
            return [Outcome(None, error, 1)]
        _LOG.warning("a batch of %d failed (%s: %s); its pictures are run singly", len(items), type(error).__name__, error)
    if not predictions:  # here and not above: the error holds the memory of the batch
        return [None if gone(item) else compute_batch(compute, [item])[0] for item in items]
    return [Outcome(prediction, None, len(items), opens_batch=not i) for i, prediction in enumerate(predictions)]


def _counted(predictions: Sequence[Prediction], expected: int) -> Sequence[Prediction]:
    if len(predictions) != expected:
        raise RuntimeError(f"the model gave {len(predictions)} predictions for {expected} pictures")
    return predictions
