"""Element-wise sums without new memory, and functions of single tokens applied to some of them at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_BYTES = 2**26
"""What a chunk's widest intermediate may take. Smaller chunks take less memory, but each orders the weights for the processor anew."""


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """function(x), for a function that treats every token (last dimension) alone and keeps its shape.

    On a CPU and without gradients it is applied to chunks of tokens, so that a feed-forward block's hidden values, four times as large as
    its input, never exist as a whole: they are what a picture needs most memory for.

    Args:
        x: (..., C) float.
        width: channels of the function's widest intermediate.
    """
    rows = max(64, CHUNK_BYTES // (width * x.element_size()))
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or x.numel() <= rows * x.shape[-1]:
        return function(x)
    tokens = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(tokens)
    for source, target in zip(tokens.split(rows), out.split(rows), strict=True):
        target.copy_(function(source))
    return out.view(x.shape)


def add_into(fresh: Tensor, other: Tensor) -> Tensor:
    """fresh + other, written into `fresh`, which no other code may use afterwards: new memory costs more than the sum.

    Gradients allow it where `fresh` comes from a linear layer, a gather or a resize: they need their inputs, not their output.
    Under autocast the two may differ in dtype; then the sum is a new tensor in the wider one.
    """
    return fresh.add_(other) if fresh.dtype == other.dtype else fresh + other
