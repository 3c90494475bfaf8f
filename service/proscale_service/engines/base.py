"""The interface between the service and whatever computes: one for the network in this process and for networks elsewhere."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.batches import budget_pixels
from proscale.config import Task
from proscale.errors import ParameterError, ProscaleError
from proscale.geometry import ResizedPicture
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions
from proscale.tiles import Tiling
from proscale_service.engines.backlog import Admitted, Backlog
from proscale_service.engines.costs import Work
from proscale_service.engines.processor import Processor
from proscale_service.errors import EngineFailure, ServiceError, Unprocessable
from proscale_service.metrics import Metrics
from proscale_service.settings import Settings

MAX_RETRY_AFTER = 60
"""Seconds."""


@dataclass(frozen=True)
class Surroundings:
    """What an engine is given of the service."""

    settings: Settings
    metrics: Metrics
    pool: Executor
    """Threads that read and write pictures."""
    admitted: Callable[[], int] = lambda: 0
    """Pictures in the service, those in the engine included."""
    on_change: Callable[[], None] = lambda: None
    """To be called when `Engine.capacity` changes."""
    on_lost: Callable[[str], None] = lambda reason: None
    """To be called with the reason when the engine cannot compute any more in this process."""
    processor: Processor | None = None
    """Where networks of this process compute; None: the engine makes its own."""
    beside: bool = False
    """Others are being served while this one is loaded."""


@dataclass(frozen=True)
class Picture:
    """A picture that was decoded and resized for the engine's model."""

    resized: ResizedPicture
    options: SegmentationOptions
    plan: Plan
    """Of the model that it was resized for."""
    resize_seconds: float
    decode_again: Callable[[], NDArray[np.uint8]]
    """The picture at its own size, (H, W, 3) uint8 RGB, for an engine whose model changed meanwhile; blocks."""

    @property
    def pixels(self) -> int:
        """What it takes of a batch's budget."""
        return budget_pixels(self.plan.padded, self.resized.output_size)

    @property
    def work(self) -> Work:
        """What decides how long it takes."""
        height, width = self.resized.output_size
        return Work(self.plan, height * width, self.options.tasks)


@dataclass(frozen=True)
class Computed:
    """A picture's masks."""

    prediction: Prediction
    info: ModelInfo
    """Of the model that computed it."""
    batch_size: int
    """Pictures computed together with this one, itself included."""
    queue_seconds: float


class Engine(ABC):
    """Computes many pictures at once, in the order of its backlog.

    `info`, `resize` and `plan` may be asked on any thread; all else belongs to the event loop's."""

    backlog: Backlog
    """Admits pictures, on any thread."""

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """What is being served; Unavailable when that is not known."""

    @abstractmethod
    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        """A picture (H, W, 3), uint8 RGB, at the network's size. Unavailable when it is not known what is served.

        Args:
            plan: the picture's, of `plan` or `plan_joint`; None: as `plan` has it.
        """

    def plan_joint(self, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """As `plan`, of a picture whose windows are apart in the backbone alone. Raises ParameterError where that cannot be."""
        raise ParameterError("tile: joint needs a network in the server's own process; take windows that are merged, such as tile=auto")

    @abstractmethod
    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """Cost of an oriented picture of this size in pixels. Fast. Unavailable when it is not known what is served."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many computers of pictures there are now; with 0 requests are refused with Unavailable."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Pictures that wait."""

    @abstractmethod
    async def open(self) -> None:
        """Load or connect, warm up, and return when it is known for the first time what can compute.

        Raises:
            ProscaleError: it cannot be used; the text names the remedy.
        """

    @abstractmethod
    async def segment(self, picture: Picture, promise: Admitted) -> Computed:
        """Segment a picture. Cancelling the caller takes it back from where it is.

        Args:
            promise: from `backlog`.

        Raises:
            DeadlineExceeded: not done by then.
            Draining: the server goes down.
            Overloaded, Unavailable: refused, or nothing can compute.
            EngineFailure, Unprocessable: of this picture alone.
        """

    @abstractmethod
    async def drain(self, timeout_s: float) -> None:
        """Accept no more pictures, finish those that were accepted, and stop. What is not done within `timeout_s` fails with Draining."""

    @abstractmethod
    def abort(self) -> None:
        """Take no more, and fail whatever is not done with Draining."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what the engine holds, after `drain`."""


MakeEngine = Callable[[Surroundings], Engine]


def retry_after(seconds: float | None) -> int:
    """What to tell those who are refused. Args: seconds: in which the work of now should be done; None: nobody knows. Returns 1..60."""
    return max(1, min(MAX_RETRY_AFTER, math.ceil(seconds or 1)))


def failure_for_caller(error: Exception) -> ServiceError:
    """What the caller gets to see: the model's own words about the picture, nothing about our inside (that stays as the cause)."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ProscaleError):
        return Unprocessable(str(error))
    failure = EngineFailure("the network failed on this picture; the server's log has the cause under this request's id")
    failure.__cause__ = error
    return failure
