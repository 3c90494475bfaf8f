"""The number format that the network computes in, float32 or bfloat16, and whether this machine is fast with bfloat16."""

import os

import torch

from proscale.config import Precision
from proscale.errors import CheckpointError

_BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "arm_bf16": "ARM BF16", "bf16": "ARM BF16"}
"""What torch calls an instruction set with products of bfloat16 -> its name in words."""


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
    found = torch.cpu.get_capabilities()
    words = next((words for name, words in _BFLOAT16.items() if found.get(name)), None)
    if words is None:
        return False, "the processor has neither AMX nor AVX512-BF16"
    limit = next((os.environ[name] for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if os.environ.get(name)), "ALL").upper()
    if limit not in ("ALL", "DEFAULT") and not any(part in limit for part in ("BF16", "FP16", "AMX", "AVX10")):
        return False, f"ONEDNN_MAX_CPU_ISA={limit} keeps oneDNN from {words}"
    return True, words


def refuse_if_slow(device: torch.device, precision: Precision) -> None:
    """Raise CheckpointError, with the remedy, where bfloat16 would be slower than float32: a server would be unusable, and say nothing."""
    if precision != "bfloat16":
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
