"""Linear layers and convolutions in products of bytes, their reference forms in floats, and what measures the range that bytes must cover.

Weights are signed bytes with one scale per output channel; a layer's input is unsigned bytes with one scale and zero point for all of
it, fixed beforehand. oneDNN sums the products as 32-bit integers; scales, bias and activation are applied in float32.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.layers.linear import Activation, LinearForm, apply_linear, linear_plain
from proscale.ops.quantise import norm_quantise, quantise, quantise_reference


@dataclass(frozen=True)
class ByteRange:
    """What bytes 0 to 255 stand for: (byte - zero_point) * scale."""

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, low: float, high: float) -> "ByteRange":
        """The finest one that holds `low`, `high` and 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255 or 1.0
        return cls(scale, round(-low / scale))


class Seen:
    """The least and the greatest value that a layer has read."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def add(self, x: Tensor) -> None:
        """Take a tensor's values into account."""
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


class ObservedLinear(LinearForm):
    """A linear layer that notes what it reads."""

    def __init__(self, layer: nn.Linear, seen: Seen) -> None:
        super().__init__()
        self.layer, self.seen, self.out_features = layer, seen, layer.out_features

    def apply_linear(self, x: Tensor, activation: Activation) -> Tensor:
        """See `LinearForm`."""
        self.seen.add(x)
        return apply_linear(self.layer, x, activation)


class ObservedConvolution(nn.Module):
    """A convolution that notes what it reads."""

    def __init__(self, layer: nn.Conv2d, seen: Seen) -> None:
        super().__init__()
        self.layer, self.seen = layer, seen

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, h, w)."""
        self.seen.add(x)
        out: Tensor = self.layer(x)
        return out


def byte_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, ...) -> signed bytes of its shape, and the scale (out,) of every output channel."""
    scales = weight.detach().float().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
    return torch.round(weight.detach().float() / scales.view(-1, *[1] * (weight.dim() - 1))).to(torch.int8), scales


class Int8Linear(LinearForm):
    """A linear layer in bytes. What it reads may be bytes of its own range already (`normed`, `read_from`)."""

    def __init__(self, layer: nn.Linear, reads: ByteRange, dtype: torch.dtype) -> None:
        """Args: reads: of the layer's input; dtype: of its output, float32 or bfloat16."""
        super().__init__()
        weight, self.scales = byte_weights(layer.weight)
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        self.out_features, self.reads, self.dtype, self.zero = len(weight), reads, dtype, reads.zero_point

    def apply_linear(self, x: Tensor, activation: Activation) -> Tensor:
        """See `LinearForm`."""
        return self._product(x, activation, self.dtype, ByteRange(1.0, 0))

    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """Bytes."""
        return norm_quantise(x, norm.weight, norm.bias, norm.eps, self.reads.scale, self.reads.zero_point)

    def read_from(self, layer: nn.Linear | LinearForm, x: Tensor, activation: Activation) -> Tensor:
        """Bytes, where the other layer is in bytes as well."""
        if isinstance(layer, Int8Linear):
            return layer._product(x, activation, torch.uint8, self.reads)
        return apply_linear(layer, x, activation)

    def _product(self, x: Tensor, activation: Activation, dtype: torch.dtype, gives: ByteRange) -> Tensor:
        read = x if x.dtype == torch.uint8 else quantise(x, self.reads.scale, self.reads.zero_point)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            read.reshape(-1, x.shape[-1]),
            self.reads.scale,
            self.reads.zero_point,
            self.packed,
            self.scales,
            self.zero_points,
            self.bias,
            gives.scale,
            gives.zero_point,
            dtype,
            activation,
            [],
            "none" if activation == "gelu" else "",
        )
        return out.view(*x.shape[:-1], self.out_features)


class Int8Convolution(nn.Module):
    """A convolution in bytes, channels last."""

    def __init__(self, layer: nn.Conv2d, reads: ByteRange, dtype: torch.dtype) -> None:
        """Args: reads: of the layer's input; dtype: of its output, float32 or bfloat16."""
        super().__init__()
        weight, self.scales = byte_weights(layer.weight)
        self.settings: tuple[Any, ...] = (list(layer.stride), _padding_of(layer), list(layer.dilation), layer.groups)
        self.packed = torch.ops.onednn.qconv_prepack(weight, self.scales, reads.scale, reads.zero_point, *self.settings)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        self.reads, self.dtype = reads, dtype

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, h, w)."""
        read = quantise(x.permute(0, 2, 3, 1), self.reads.scale, self.reads.zero_point).permute(0, 3, 1, 2)
        reads, weights = (self.reads.scale, self.reads.zero_point), (self.packed, self.scales, self.zero_points, self.bias)
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(read, *reads, *weights, *self.settings, 1.0, 0, self.dtype, "none", [], "")
        return out


class RoundedLinear(LinearForm):
    """The reference form of `Int8Linear`: values that bytes can hold, computed in float32."""

    def __init__(self, layer: nn.Linear, reads: ByteRange) -> None:
        super().__init__()
        self.weight, self.bias, self.reads = rounded_weight(layer.weight), layer.bias, reads
        self.out_features = layer.out_features

    def apply_linear(self, x: Tensor, activation: Activation) -> Tensor:
        """See `LinearForm`."""
        return linear_plain(rounded(x, self.reads), self.weight, self.bias, activation)


class RoundedConvolution(nn.Module):
    """The reference form of `Int8Convolution`."""

    def __init__(self, layer: nn.Conv2d, reads: ByteRange) -> None:
        super().__init__()
        self.weight, self.layer, self.reads = rounded_weight(layer.weight), layer, reads

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, h, w)."""
        layer = self.layer
        return F.conv2d(rounded(x, self.reads), self.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def rounded(x: Tensor, reads: ByteRange) -> Tensor:
    """x as bytes hold it, in float32."""
    return (quantise_reference(x, reads.scale, reads.zero_point).float() - reads.zero_point) * reads.scale


def rounded_weight(weight: Tensor) -> Tensor:
    """A weight (out, ...) as bytes hold it, in float32."""
    values, scales = byte_weights(weight)
    return values.float() * scales.view(-1, *[1] * (weight.dim() - 1))


def _padding_of(layer: nn.Conv2d) -> list[int]:
    assert not isinstance(layer.padding, str)
    return list(layer.padding)
