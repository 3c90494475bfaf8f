"""How a job runs."""

from dataclasses import dataclass, field

from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig


@dataclass(frozen=True)
class BulkOptions:
    """How a job runs."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    tile: str = "off"
    intensity: str = "full"
    max_pixels: int = 40_000_000
    address: str | None = None
    """Of a Ray cluster; None: this machine."""
    actors: int = 1
    """Processes with a model each."""
    threads: int = 1
    """Of each."""
    gpus: float = 0.0
    """Of each."""
    batch: int = 16
    """Pictures that an actor is given at once."""
    rows_per_file: int = 1000
