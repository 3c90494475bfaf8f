"""What numbers the network computes in, and how fast this machine is with them."""

import logging

import torch

from proscale.config import Precision

log = logging.getLogger(__name__)


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
    """Whether this processor multiplies bfloat16 faster than float32, and what says so, in words."""
    found = torch.cpu.get_capabilities()
    for name, words in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"), ("arm_bf16", "ARM BF16"), ("bf16", "ARM BF16")):
        if found.get(name):
            return True, words
    return False, "the processor has neither AMX nor AVX512-BF16"


def warn_if_slow(device: torch.device, precision: Precision) -> None:
    """Log a warning, with the remedy, where bfloat16 would be slower than float32."""
    if precision != "bfloat16":
        return
    if device.type == "cpu":
        fast, why = cpu_bfloat16()
    else:
        fast, why = torch.cuda.is_bf16_supported(including_emulation=False), "the GPU emulates it"
    if not fast:
        log.warning("bfloat16 is slower than float32 on this machine (%s); use --precision float32", why)
