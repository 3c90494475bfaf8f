"""The one interface between the service and whatever computes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions


class Engine(Protocol):
    """Computes segmentations. `segment` blocks and is only ever called by one thread; `plan` and `info` by any."""

    @property
    def info(self) -> ModelInfo:
        """What is being served."""
        ...

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """Cost of an oriented picture of this size in pixels. Fast: the event loop calls it."""
        ...

    def segment(self, images: Sequence[NDArray[np.uint8]], options: Sequence[SegmentationOptions]) -> Sequence[Prediction]:
        """Segment pictures (H, W, 3), uint8 RGB, that share `plan().padded`; one prediction each, in order.

        Raises:
            ProscaleError: the caller's fault, with a text for the caller.
            Exception: anything else is the engine's failure.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...
