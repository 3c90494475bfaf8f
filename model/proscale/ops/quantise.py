"""Floats -> bytes for products of bytes: byte = round(x / scale + zero_point), kept within 0..255.

The compiled forms (`csrc/quantise_op.cpp`) have reference forms in torch. The two may differ by 1 where a value lies between two bytes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.ops import native


def quantise(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """x (...) float32 or bfloat16 -> the same shape of uint8.

    Args:
        scale: what a step of 1 stands for, above 0.
        zero_point: the byte that stands for 0.0.
    """
    if native.has("quantise") and x.device.type == "cpu":
        out: Tensor = torch.ops.proscale.quantise(x, scale, zero_point)
        return out
    return quantise_reference(x, scale, zero_point)


def quantise_reference(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """The reference form of `quantise` for every device."""
    return torch.round(x.float() * (1 / scale) + zero_point).clamp(0, 255).to(torch.uint8)


def norm_quantise(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, scale: float, zero_point: int) -> Tensor:
    """Layer normalisation over the last dimension, then `quantise`, in one pass.

    Args:
        x: (..., C) float32 or bfloat16.
        weight, bias: (C,) of the norm.
        epsilon: added to the variance.

    Returns:
        (..., C) uint8.
    """
    if native.has("norm_quantise") and x.device.type == "cpu":
        out: Tensor = torch.ops.proscale.norm_quantise(x, weight.float(), bias.float(), epsilon, scale, zero_point)
        return out
    return norm_quantise_reference(x, weight, bias, epsilon, scale, zero_point)


def norm_quantise_reference(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, scale: float, zero_point: int) -> Tensor:
    """The reference form of `norm_quantise` for every device."""
    normed = F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), epsilon)
    return quantise_reference(normed, scale, zero_point)
