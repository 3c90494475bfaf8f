"""What a model is loaded from and what it runs on: one configuration for the server and for the Triton worker. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from proscale.config import PRECISIONS, TASKS, Precision, Task
from proscale.errors import CheckpointError
from proscale.results import SegmentationOptions

Result = TypeVar("Result")

MAX_BATCH_PIXELS = 4_000_000
MAX_BATCH_PICTURES = 16
GPU_WARMUP = "480x640"
"""Where nothing is said: a GPU compiles and allocates at its first picture; a CPU would only be ready later for nothing."""

DESCRIPTIONS = {
    "checkpoint": "Model folder; unset: the model in the package.",
    "device": "`cpu`, `cuda` or `cuda:N`. The server does not start if the device is missing.",
    "precision": "Number format of the network: `float32`, `bfloat16` or `int8`; unset: float32 on a CPU, bfloat16 on a GPU.",
    "cuda_graphs": "On a GPU: record the network's kernels once per batch size and padded size, and replay them (CUDA graphs).",
    "compile": "On a CPU: compile the network (torch.compile) for the sizes in `PROSCALE_WARMUP` before the server is ready; about a "
    "minute per size, needs g++.",
    "threads": "Threads of the network on a CPU; unset: as many as CPU quota and affinity allow, which is also the maximum.",
    "warmup": f"Picture sizes HEIGHTxWIDTH, comma separated, that are computed once before the server is ready; unset: {GPU_WARMUP} on a "
    "GPU, none on a CPU.",
    "max_batch_pixels": "Most pixels in one batch; a picture counts as its own or its padded size, whichever is larger. A larger picture "
    "runs alone.",
    "feature_cache_bytes": "Bytes of backbone features to cache for pictures and windows that repeat with equal pixels; 0: no cache.",
}
"""Per field of `RuntimeConfig` that is a setting, what it means; the variable is `PROSCALE_` and its name in capitals."""

_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("", "0", "false", "f", "no", "n", "off")


@dataclass(frozen=True)
class RuntimeConfig:
    """What is loaded, and how it runs. Fields as in `DESCRIPTIONS`."""

    checkpoint: Path | None = None
    device: str = "cpu"
    precision: Precision | None = None
    cuda_graphs: bool = False
    compile: bool = False
    threads: int | None = None
    warmup: tuple[tuple[int, int], ...] = ()
    """(height, width) in pixels."""
    max_batch_pixels: int = MAX_BATCH_PIXELS
    max_batch_pictures: int = MAX_BATCH_PICTURES
    feature_cache_bytes: int = 0

    def __post_init__(self) -> None:
        """Raise CheckpointError, with the remedy, for values that exclude each other."""
        if self.compile and not self.warmup:
            raise CheckpointError("compile needs warmup: the expected picture sizes HEIGHTxWIDTH, such as 480x640")


def warmup_sizes(text: str | None, device: str) -> tuple[tuple[int, int], ...]:
    """The sizes (height, width) that the setting `warmup` stands for. Args: text: None: nothing was said.

    Raises:
        ValueError: names the part that is no size.
    """
    return parse_sizes((GPU_WARMUP if device.startswith("cuda") else "") if text is None else text)


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`"480x640,800x800"` -> ((480, 640), (800, 800)), heights first.

    Raises:
        ValueError: names the part that is no size.
    """
    sizes = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        height, cross, width = part.lower().partition("x")
        if not cross or not height.isdecimal() or not width.isdecimal() or not int(height) or not int(width):
            raise ValueError(f"{part!r} is no size such as 480x640")
        sizes.append((int(height), int(width)))
    return tuple(sizes)


def warm_up(
    segment: Callable[[np.ndarray, SegmentationOptions], Result], config: RuntimeConfig, tasks: Sequence[Task] = TASKS
) -> list[Result]:
    """Segment a blank picture of every size for all tasks: memory is taken and kernels are chosen before the first user waits.

    Args:
        segment: does one picture (H, W, 3), uint8 RGB.

    Returns:
        what `segment` returned, in order.
    """
    # Twice where CUDA graphs are recorded, which happens when a size comes again.
    sizes = config.warmup * (2 if config.cuda_graphs else 1)
    return [segment(np.zeros((*size, 3), np.uint8), SegmentationOptions(tuple(tasks))) for size in sizes]


def runtime_from_texts(parameters: Mapping[str, str], environment: Mapping[str, str], placed: str | None = None) -> RuntimeConfig:
    """The configuration that texts name: a Triton model's parameters, and where they leave it open, `PROSCALE_` variables.

    Args:
        placed: the device that the caller chose, for when nothing names one, or `cuda` alone leaves open which; None: the CPU.

    Raises:
        CheckpointError: a value cannot be used; the text names it.
    """

    def value(name: str) -> str:
        return parameters.get(name) or environment.get(f"PROSCALE_{name.upper()}", "")

    checkpoint, device, precision = value("checkpoint"), value("device"), value("precision")
    if not device or (device == "cuda" and placed is not None):
        device = placed or "cpu"
    if precision and precision not in PRECISIONS:
        raise CheckpointError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    try:
        # Empty in the environment means none; an empty parameter leaves it to the environment.
        sizes = warmup_sizes(parameters.get("warmup") or environment.get("PROSCALE_WARMUP"), device)
    except ValueError as error:
        raise CheckpointError(f"warmup: {error}") from error
    return RuntimeConfig(
        checkpoint=Path(checkpoint) if checkpoint else None,
        device=device,
        precision=next((known for known in PRECISIONS if known == precision), None),
        cuda_graphs=_switch("cuda_graphs", value("cuda_graphs")),
        compile=_switch("compile", value("compile")),
        threads=_number("threads", value("threads")),
        warmup=sizes,
        max_batch_pixels=_number("max_batch_pixels", value("max_batch_pixels")) or MAX_BATCH_PIXELS,
        feature_cache_bytes=_number("feature_cache_bytes", value("feature_cache_bytes"), 0) or 0,
    )


def _number(name: str, text: str, least: int = 1) -> int | None:
    if text and (not text.isdecimal() or int(text) < least):
        raise CheckpointError(f"{name} must be a whole number from {least}, not {text!r}")
    return int(text) if text else None


def _switch(name: str, text: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise CheckpointError(f"{name} must be true or false, not {text!r}")
    return text.lower() in _YES
