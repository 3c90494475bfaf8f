"""How a job runs, and what does its work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    attempts: int = 3
    """How often a picture may end its process before it is a row with that error: in its batch, and then alone."""
    rows_per_file: int = 1000
    output_format: str = "parquet"
    """One of `formats.OUTPUT_FORMATS`."""


@dataclass(frozen=True)
class Work:
    """Who segments the pictures: a class that every actor makes one of, and calls with batches."""

    actor: type
    """Its calls take columns of `Picture` and give a table of `rows.SCHEMA`, or of `rows.WITH_FILES`."""
    arguments: tuple[Any, ...]
    """Of its constructor."""
    decides: Mapping[str, Any]
    """What decides the results; all of it can be written as JSON."""
    batch: int = 1
    """Least number of pictures at once that keeps an actor busy."""
