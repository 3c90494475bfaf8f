"""The number format that the network computes in, and whether this machine is fast with bfloat16 and int8."""

import os

import torch

from proscale.config import Precision
from proscale.errors import CheckpointError

_BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "arm_bf16": "ARM BF16", "bf16": "ARM BF16"}
"""What torch calls an instruction set with products of bfloat16 -> its name in words."""

_INT8 = {"amx_int8": "AMX", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI"}
"""Likewise of bytes."""


def default_precision(device: torch.device) -> Precision:
    """float32 on a CPU; bfloat16 on a GPU that computes it, where it is several times as fast (docs/performance.md has what it costs)."""
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def configure_torch(device: torch.device, precision: Precision) -> None:
    """torch's switches of the whole process that decide how a GPU computes."""
    if device.type != "cuda":
        return
    if precision == "float32":
        torch.backends.cudnn.allow_tf32 = False  # on by default: convolutions would round what they read to 10 bits
    # cuDNN makes a plan for every new shape, which takes long where padded sizes and batches vary; the other kernels need none.
    torch.backends.cuda.enable_cudnn_sdp(False)


def cpu_bfloat16() -> tuple[bool, str]:
    """Whether this processor multiplies bfloat16 faster than float32, and what says so, in words.

    Without such instructions every product is emulated, about ten times slower than in float32. oneDNN, which does the products, may also
    be kept from using them by its own variable.
    """
    return _has(_BFLOAT16, "neither AMX nor AVX512-BF16", ("BF16", "FP16", "AMX", "AVX10"))


def cpu_int8() -> tuple[bool, str]:
    """As `cpu_bfloat16`, of products of bytes: whether they are faster than those of floats."""
    return _has(_INT8, "neither VNNI nor AMX", ("VNNI", "BF16", "FP16", "AMX", "AVX10"))


def _has(sets: dict[str, str], none: str, allowing: tuple[str, ...]) -> tuple[bool, str]:
    found = torch.cpu.get_capabilities()
    words = next((words for name, words in sets.items() if found.get(name)), None)
    if words is None:
        return False, f"the processor has {none}"
    limit = next((os.environ[name] for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if os.environ.get(name)), "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and not any(part in limit for part in allowing):
        return False, f"ONEDNN_MAX_CPU_ISA={limit} keeps oneDNN from {words}"
    return True, words


def float_type(device: torch.device, precision: Precision) -> torch.dtype:
    """What a network of this precision has its floats in; with int8 that is what this processor is fastest with."""
    if precision == "int8":
        return torch.bfloat16 if device.type == "cpu" and cpu_bfloat16()[0] else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def refuse_if_slow(device: torch.device, precision: Precision) -> None:
    """Raise CheckpointError, with the remedy, where a precision is slower than float32: a server would be unusable and say nothing."""
    if precision == "float32":
        return
    if precision == "int8":
        fast, why = cpu_int8() if device.type == "cpu" else (False, "it is for CPUs")
        if not fast:
            raise CheckpointError(
                f"int8 needs a processor that multiplies bytes ({why}); "
                "use --precision float32 or bfloat16 (PROSCALE_PRECISION), or leave the precision unset"
            )
        return
    if device.type == "cpu":
        fast, why = cpu_bfloat16()
    else:
        fast, why = torch.cuda.is_bf16_supported(including_emulation=False), "the GPU emulates it"
    if not fast:
        raise CheckpointError(
            f"bfloat16 is many times slower than float32 on this machine ({why}); "
            "use --precision float32 (PROSCALE_PRECISION=float32), or leave the precision unset"
        )
