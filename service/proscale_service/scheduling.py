"""What the two ways to the engine share (`batching`, `forwarding`): their interface, the estimate of speed, the words for failures."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.errors import ProscaleError
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions
from proscale_service.errors import EngineFailure, ServiceError, Unprocessable

_SMOOTHING = 0.2
"""Weight of the newest measurement in the running estimate of seconds per FLOP."""


@dataclass(frozen=True)
class Done:
    """A computed picture."""

    prediction: Prediction
    queue_seconds: float
    batch_size: int
    info: ModelInfo
    """Of the model that computed it."""


class Scheduler(Protocol):
    """Brings pictures to an engine and their masks back. All methods belong to the event loop's thread."""

    @property
    def depth(self) -> int:
        """Pictures that wait."""
        ...

    def expected_seconds(self, flops: int) -> float | None:
        """How long until a picture of so many FLOPs would be done if it came now; None before anything was measured."""
        ...

    async def submit(self, image: NDArray[np.uint8], options: SegmentationOptions, plan: Plan, deadline: float) -> Done:
        """Masks of a picture (H, W, 3), uint8 RGB, by a deadline in seconds of the event loop's clock, or a ServiceError."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Take no more, finish what was taken, and stop. What is not done within `timeout_s` fails with Draining."""
        ...

    def abort(self) -> None:
        """Take no more, and fail whatever is not done with Draining."""
        ...


class SpeedEstimate:
    """A running estimate of seconds per FLOP."""

    def __init__(self) -> None:
        self._seconds_per_flop: float | None = None

    def measured(self, flops: int, seconds: float) -> None:
        """Take a measurement in."""
        rate = seconds / max(flops, 1)
        self._seconds_per_flop = rate if self._seconds_per_flop is None else (1 - _SMOOTHING) * self._seconds_per_flop + _SMOOTHING * rate

    def seconds(self, flops: int) -> float | None:
        """What so many FLOPs should take; None before anything was measured."""
        return None if self._seconds_per_flop is None else flops * self._seconds_per_flop


def describe_failure(error: Exception) -> ServiceError:
    """What the caller gets to see: the model's own words about his picture, nothing about our inside (that stays as the cause)."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ProscaleError):
        return Unprocessable(str(error))
    failure = EngineFailure("the network failed on this picture; the server's log tells more under this request's id")
    failure.__cause__ = error
    return failure
