"""A linear layer and its activation as one kernel where torch has one."""

from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["none", "relu", "gelu"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """activation(x @ weight.T + bias), for x (..., in), weight (out, in), bias (out,); returns (..., out).

    On a CPU and without gradients oneDNN does all of it in one pass: torch's own way writes the bias first, then adds the product, then
    reads it all again for the activation. GELU is the exact one.
    """
    return _linear_fused(x, weight, bias, activation) if _fuses(x, weight) else linear_plain(x, weight, bias, activation)


def linear_plain(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """`linear` in torch's public functions: its definition, and what runs on GPUs and in training."""
    out = F.linear(x, weight, bias)
    if activation == "relu":
        return F.relu(out, inplace=True)
    return F.gelu(out) if activation == "gelu" else out


def apply_linear(layer: nn.Linear, x: Tensor, activation: Activation = "none") -> Tensor:
    """`linear` with a layer's weights."""
    return linear(x, layer.weight, layer.bias, activation)


def _linear_fused(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    # What torch's own compiler calls for a fused linear layer; the last argument chooses GELU's exact form.
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none" if activation == "gelu" else "")
    return out


def _fuses(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or x.dtype != weight.dtype:
        return False
    return not torch.is_autocast_enabled("cpu") and _has_fused(x.dtype)


@cache
def _has_fused(dtype: torch.dtype) -> bool:
    """Whether torch was built with oneDNN's fused layer and this processor computes `dtype` with it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
