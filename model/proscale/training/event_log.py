"""A run's history for TensorBoard: event files beside `log.jsonl`, with the same numbers. Needs the extra `tensorboard`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.errors import DataError

FOLDER = "tensorboard"
FLUSH_SECONDS = 20
"""A kill loses what was logged since; `log.jsonl` loses nothing."""


def check_installed() -> None:
    """Raise DataError, with the remedy, where TensorBoard is missing."""
    if find_spec("tensorboard") is None:
        raise DataError(
            "TensorBoard is not installed: pip install 'proscale-segmentation-service[tensorboard]', or leave --tensorboard away"
        )


class EventLog:
    """Scalars, texts and pictures by step."""

    def __init__(self, run: Path, step: int) -> None:
        """Args: run: its folder; step: how many were done before: what an earlier sitting logged of later ones is hidden."""
        from torch.utils.tensorboard import SummaryWriter  # here: it needs the extra

        self._writer: Any = SummaryWriter(str(run / FOLDER), purge_step=step + 1 if step else None, flush_secs=FLUSH_SECONDS)

    def record(self, record: Mapping[str, Any]) -> None:
        """A record of the run's log: numbers become scalars `training/NAME`, those of an evaluation `evaluation/NAME`, the rest a text."""
        step = record["step"]
        for name, value in record.items():
            if name == "evaluation":
                for figure, measured in value.items():
                    self._writer.add_scalar(f"evaluation/{figure}", measured, step)
            elif isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(f"training/{name}", value, step)
            elif name != "step":
                self._writer.add_text(name, f"    {value}", step)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """A picture (H, W, 3) RGB."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
