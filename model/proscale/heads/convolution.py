"""Convolution, BatchNorm and ReLU, and what frozen ones are as one convolution."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_NORM_EPS = 1e-5


class BatchNorm(nn.Module):
    """Batch normalisation over (B, H, W), without torch's count of batches, which carries nothing."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, eps=BATCH_NORM_EPS)


class ConvNorm(nn.Module):
    """Convolution without bias -> BatchNorm -> ReLU; the map's size stays."""

    def __init__(self, channels_in: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H, W) -> (B, C, H, W)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Affine(NamedTuple):
    """x -> weight x + bias, over channels or a window of them."""

    weight: Tensor
    bias: Tensor


def norm_affine(norm: BatchNorm) -> Affine:
    """A frozen BatchNorm as a factor and a summand per channel (C,), float64."""
    scale = norm.weight.double() / (norm.running_var.double() + BATCH_NORM_EPS).sqrt()
    return Affine(scale, norm.bias.double() - norm.running_mean.double() * scale)


def fold_conv_norm(layer: ConvNorm) -> Affine:
    """A frozen ConvNorm's convolution with its norm in it: weight (C, C', k, k), bias (C,), float64."""
    scale, shift = norm_affine(layer.norm)
    return Affine(layer.conv.weight.double() * scale[:, None, None, None], shift)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear."""
    return x if x.shape[2:] == torch.Size(size) else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
