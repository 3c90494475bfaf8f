"""The compiled operator: found and loaded, registered with torch (shapes, gradient), and described in words.

`proscale::ms_deform_attn` and `proscale::ms_deform_attn_backward` come from `_native.so` (CPU; defines the schema) and `_native_cuda.so`
(CUDA), built by the installation from `csrc/`. Both use torch's stable ABI, so one build serves torch 2.10 and later.
"""

import ctypes
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
LIBRARY, CUDA_LIBRARY = HERE / "_native.so", HERE / "_native_cuda.so"
REMEDY = "pip install --no-build-isolation -e . (needs a C++20 compiler and torch's headers; a GPU also needs nvcc)"
FORCE = "MS_DEFORM_ATTN"
"""Environment variable; `reference` makes every call use the reference form."""
MAX_CHANNELS, MAX_SAMPLES, MAX_CUDA_SAMPLES = 64, 512, 128
"""Channels per head, and levels times points, that the compiled kernels cover. On CUDA also: multiples of 8 channels, at most 16 levels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What runs on each device, and why."""

    cpu: str | None
    """Instruction set of the compiled CPU kernels, None if the reference form runs."""
    cpu_reason: str
    cuda: bool
    """Whether the compiled CUDA kernels are loaded."""
    cuda_reason: str


def _load() -> Status:
    if os.environ.get(FORCE) == "reference":
        return Status(None, f"{FORCE}=reference", False, f"{FORCE}=reference")
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        missing = not LIBRARY.exists()
        note = HERE / "_native.txt"  # written by an installation that could not compile
        why = (note.read_text().strip() if note.exists() else "not built by the installation") if missing else str(error.__cause__ or error)
        log.warning("the compiled attention operator is missing (%s); the much slower pure-torch form runs. Remedy: %s", why, REMEDY)
        return Status(None, why, False, "the CPU part, which defines the operator, is missing")
    capability = ctypes.CDLL(str(LIBRARY)).proscale_cpu_capability
    capability.restype = ctypes.c_char_p
    cpu = capability().decode()
    if not torch.cuda.is_available():
        return Status(cpu, str(LIBRARY), False, "torch sees no CUDA device")
    try:
        torch.ops.load_library(CUDA_LIBRARY)
    except OSError as error:
        why = str(error.__cause__ or error) if CUDA_LIBRARY.exists() else "not built by the installation"
        log.warning("the compiled CUDA operator is missing (%s); the slower pure-torch form runs on GPUs. Remedy: %s", why, REMEDY)
        return Status(cpu, str(LIBRARY), False, why)
    return Status(cpu, str(LIBRARY), True, str(CUDA_LIBRARY))


STATUS = _load()


def covers(value: Tensor, levels: int, samples: int) -> bool:
    """Whether a compiled kernel exists for value's device, dtype and channels per head, and for so many levels and samples per query."""
    channels = value.shape[-1]
    if channels > MAX_CHANNELS or samples > MAX_SAMPLES:
        return False
    if value.device.type == "cuda":
        return STATUS.cuda and channels % 8 == 0 and levels <= 16 and samples <= MAX_CUDA_SAMPLES and value.dtype != torch.float64
    return STATUS.cpu is not None and value.device.type in ("cpu", "meta")


@cache
def has(operator: str) -> bool:
    """Whether the loaded CPU kernels have an operator; those of an older installation lack newer ones."""
    return STATUS.cpu is not None and hasattr(torch.ops.proscale, operator)


def _fake(value: Tensor, offsets: Tensor, logits: Tensor, spatial_shapes: list[int], reference_points: Tensor | None = None) -> Tensor:
    return value.new_empty(offsets.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(
    out_gradient: Tensor,
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    spatial_shapes: list[int],
    reference_points: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offsets.new_empty(offsets.shape), logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, offsets, logits, ctx.spatial_shapes, reference_points = inputs
    ctx.save_for_backward(value, offsets, logits, reference_points)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    value, offsets, logits, reference_points = ctx.saved_tensors
    by_value, by_offsets, by_logits = torch.ops.proscale.ms_deform_attn_backward(
        gradient, value, offsets, logits, ctx.spatial_shapes, reference_points, torch.are_deterministic_algorithms_enabled()
    )
    by_reference_points = None
    if reference_points is not None and ctx.needs_input_grad[4]:
        # The reference points move every sample of a query, by the level's size in pixels.
        shapes = ctx.spatial_shapes
        size = torch.tensor(
            [[w, h] for h, w in zip(shapes[::2], shapes[1::2], strict=True)], dtype=reference_points.dtype, device=reference_points.device
        )
        by_reference_points = (by_offsets.to(reference_points.dtype).sum((2, 4)) * size).sum(2)
        if reference_points.shape[0] != by_reference_points.shape[0]:
            by_reference_points = by_reference_points.sum(0, keepdim=True)
    return by_value, by_offsets, by_logits, None, by_reference_points


if STATUS.cpu is not None:
    torch.library.register_fake("proscale::ms_deform_attn", _fake)
    torch.library.register_fake("proscale::ms_deform_attn_backward", _fake_backward)
    torch.library.register_autograd("proscale::ms_deform_attn", _backward, setup_context=_save)
