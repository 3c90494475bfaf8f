"""The interfaces between the service and whatever computes.

An `Engine` computes batches that the service forms (`batching`); a `RemoteEngine` takes pictures one by one and batches them where it
computes (`forwarding`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions


class Planner(Protocol):
    """What every engine can say without computing. Any thread may ask."""

    @property
    def info(self) -> ModelInfo:
        """What is being served."""
        ...

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """Cost of an oriented picture of this size in pixels. Fast: the event loop calls it."""
        ...


class Engine(Planner, Protocol):
    """Computes batches. `segment` blocks and is only ever called by one thread."""

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


@dataclass(frozen=True)
class RemoteAnswer:
    """A picture that was computed elsewhere."""

    prediction: Prediction
    info: ModelInfo
    """Of the model that answered."""
    batch_size: int


class RemoteEngine(ABC):
    """Computes elsewhere, many pictures at once. Everything but `plan` and `info` belongs to the event loop's thread."""

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """What is being served; Unavailable when that is not known."""

    @abstractmethod
    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """As `Planner.plan`, without asking anybody; Unavailable when it is not known what is served."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many servers can compute now; with 0 requests are refused with Unavailable."""

    @abstractmethod
    async def open(self, pool: Executor, changed: Callable[[], None]) -> None:
        """Connect, and return when it is known for the first time who can compute.

        Args:
            pool: threads that prepare pictures.
            changed: called when `capacity` changes.
        """

    @abstractmethod
    async def segment_one(self, image: NDArray[np.uint8], options: SegmentationOptions, deadline: float) -> RemoteAnswer:
        """Segment a picture (H, W, 3), uint8 RGB. Cancelling the caller takes the request back from where it is.

        Args:
            deadline: in seconds of the event loop's clock.

        Raises:
            ServiceError: refused, late, or nobody is there.
            ProscaleError: the caller's fault, with a text for the caller.
            Exception: anything else is the engine's failure.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Give back what the engine holds."""
