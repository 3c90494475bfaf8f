"""The engine that runs the network in the server's own process."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.results import ModelInfo, Plan, Prediction, SegmentationOptions
from proscale_service.settings import Settings

if TYPE_CHECKING:
    from proscale.predictor import Predictor


class InProcessEngine:
    """A `Predictor` behind the Engine interface."""

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor

    @property
    def info(self) -> ModelInfo:
        return self._predictor.info

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return self._predictor.plan(height, width, tuple(tasks))

    def segment(self, images: Sequence[NDArray[np.uint8]], options: Sequence[SegmentationOptions]) -> Sequence[Prediction]:
        return self._predictor.segment(images, options)

    def close(self) -> None:
        """Nothing to give back: memory goes with the process."""


def load(settings: Settings) -> InProcessEngine:
    """Load the model of `settings`; call it on the thread that will compute, because torch counts threads per thread.

    Raises:
        CheckpointError: checkpoint or device cannot be used; the text says what to do.
    """
    # Here and not above: torch takes seconds to import, and no other engine needs it.
    import torch

    from proscale.predictor import Predictor

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return InProcessEngine(
        Predictor.load(
            settings.checkpoint,
            device=settings.device,
            precision=settings.precision,
            cuda_graphs=settings.cuda_graphs,
            compile_for=settings.warmup_sizes if settings.compile else (),
        )
    )
