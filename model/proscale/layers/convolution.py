"""A convolution and its activation as one kernel where torch has one."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.layers.linear import has_onednn, may_fuse


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int], relu: bool = False) -> Tensor:
    """x (B, in, H, W), weight (out, in, k, k), bias (out,) -> (B, out, h, w), with ReLU where asked.

    Without gradients oneDNN, which computes torch's convolutions on CPUs anyway, does all of it in one pass: a ReLU of its own takes up to
    a quarter of a 1x1 convolution of few channels (benchmarks/dispatch.py).
    """
    if may_fuse(x, weight) and has_onednn(x.dtype) and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return convolution_fused(x, weight, bias, stride, padding, relu)
    return convolution_plain(x, weight, bias, stride, padding, relu)


def convolution_plain(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int], relu: bool) -> Tensor:
    """`convolution` in torch's public functions: its definition."""
    out = F.conv2d(x, weight, bias, tuple(stride), tuple(padding))
    return F.relu(out, inplace=True) if relu else out


def convolution_fused(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int], relu: bool) -> Tensor:
    """`convolution` as one kernel of oneDNN. No gradients."""
    activation = "relu" if relu else "none"
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, [1, 1], 1, activation, [], "")
    return out
