"""A linear layer and its activation as one kernel where torch has one."""

from abc import ABC, abstractmethod
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["none", "relu", "gelu"]


class LinearForm(nn.Module, ABC):
    """A linear layer that is computed in a way of its own, in place of an `nn.Linear` or a 1x1 convolution (`layers/int8.py`)."""

    out_features: int
    zero: float = 0.0
    """What stands for 0.0 in what `normed` gives."""

    @abstractmethod
    def apply_linear(self, x: Tensor, activation: Activation) -> Tensor:
        """`linear` with the layer's weights: x (..., in) -> (..., out)."""

    def normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """norm(x), for x (..., in), as this layer best reads it."""
        out: Tensor = norm(x)
        return out

    def read_from(self, layer: "nn.Linear | LinearForm", x: Tensor, activation: Activation) -> Tensor:
        """`apply_linear` of another layer, as this layer best reads it."""
        return apply_linear(layer, x, activation)


class FixedLinear(nn.Linear):
    """A linear layer of weights that were made of others: no parameters, not saved, without gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Args: weight: (out, in), or what `packed` made of one; bias: (out,)."""
        super().__init__(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        del self.weight, self.bias
        self.register_buffer("weight", weight.detach().contiguous() if not weight.is_mkldnn else weight, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """activation(x @ weight.T + bias), for x (..., in), weight (out, in), bias (out,); returns (..., out).

    With AVX-512 and without gradients oneDNN does all of it in one pass: torch's own way writes the bias first, then adds the product, then
    reads it all again for the activation. With AVX2 torch's is the faster way unless the weight is packed (`packed`), and torch's GELU even
    then: oneDNN's takes as long there as half the product (benchmarks/dispatch.py measures all). GELU is the exact one.
    """
    if weight.is_mkldnn and activation == "gelu" and not _wins_unpacked(x.dtype):
        out: Tensor = torch.ops.aten.gelu_(linear_fused(x, weight, bias, "none"))
        return out
    fused = weight.is_mkldnn or (may_fuse(x, weight) and _wins_unpacked(x.dtype))
    return linear_fused(x, weight, bias, activation) if fused else linear_plain(x, weight, bias, activation)


def linear_plain(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """`linear` in torch's public functions: its definition, and what runs on GPUs, in training, and on CPUs without AVX-512."""
    out = F.linear(x, weight, bias)
    if activation == "relu":
        return F.relu(out, inplace=True)
    if activation == "none":
        return out
    # In place: new memory for the hidden values of a feed-forward block costs as much as the function.
    return F.gelu(out) if torch.is_grad_enabled() else torch.ops.aten.gelu_(out)


def apply_linear(layer: nn.Linear | LinearForm, x: Tensor, activation: Activation = "none") -> Tensor:
    """`linear` with a layer's weights."""
    if isinstance(layer, LinearForm):
        return layer.apply_linear(x, activation)
    return linear(x, layer.weight, layer.bias, activation)


def normed(norm: nn.LayerNorm, layer: nn.Linear | LinearForm, x: Tensor) -> Tensor:
    """norm(x), which `layer` reads; x (..., in)."""
    out: Tensor = layer.normed(norm, x) if isinstance(layer, LinearForm) else norm(x)
    return out


def zero_of(layer: nn.Linear | LinearForm) -> float:
    """What stands for 0.0 in what `normed` gives for a layer."""
    return layer.zero if isinstance(layer, LinearForm) else 0.0


def apply_two(first: nn.Linear | LinearForm, second: nn.Linear | LinearForm, x: Tensor, activation: Activation) -> Tensor:
    """second(activation(first(x))): a feed-forward block; x (..., in of the first), returns (..., out of the second)."""
    hidden = second.read_from(first, x, activation) if isinstance(second, LinearForm) else apply_linear(first, x, activation)
    return apply_linear(second, hidden)


def layer_at(layers: nn.ModuleList, i: int) -> nn.Linear | LinearForm:
    """One of a list of linear layers, with its type."""
    layer = layers[i]
    assert isinstance(layer, nn.Linear | LinearForm)
    return layer


def products(rows: Tensor, others: Tensor) -> Tensor:
    """Of all pairs: rows (B, Q, C) x others (B, L, C) -> (B, Q, L)."""
    if rows.device.type != "cpu":
        return rows @ others.transpose(1, 2)
    # One picture at a time: torch's batched product on a CPU copies the transposed tensor, its plain one does not.
    found = [linear(row, other, None) for row, other in zip(rows, others, strict=True)]
    return found[0][None] if len(found) == 1 else torch.stack(found)


def packs(dtype: torch.dtype) -> bool:
    """Whether `packed` weights are the faster way to compute `dtype` on this processor."""
    return has_onednn(dtype) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def packed(weight: Tensor) -> Tensor:
    """A weight (out, in) in the order in which oneDNN reads it; without it, every call orders it anew.

    What comes is for `linear` alone: an opaque tensor without slices and gradients. `packs` must hold for its dtype.
    """
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return out


def linear_fused(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """`linear` as one kernel of oneDNN: what torch's own compiler calls for a fused layer. No gradients."""
    # The last argument chooses GELU's exact form.
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none" if activation == "gelu" else "")
    return out


def may_fuse(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's fused layers can compute with these: on a CPU, in one dtype, without gradients, autocast and compiling."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or x.dtype != weight.dtype:
        return False
    return not torch.is_autocast_enabled("cpu")


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's fused layers, and they are fast here: in float32 with AVX2 or AVX-512, in bfloat16 with its products."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.float32:
        return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _wins_unpacked(dtype: torch.dtype) -> bool:
    """Whether oneDNN's linear layer, and its GELU, are faster than torch's although it orders the weight in every call."""
    return has_onednn(dtype) and torch.backends.cpu.get_cpu_capability() != "AVX2"
