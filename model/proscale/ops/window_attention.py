"""Self-attention inside windows of tokens, with a bias per pair of tokens (arXiv 2103.14030, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.ops import native

CHANNELS = 32
"""Per head, that the compiled form (`csrc/windows_kernel.cpp`) covers: what every Swin has."""
FASTER = ("avx2", "avx512")
"""Builds of it that are faster than torch (`benchmarks/dispatch.py`); the plain one takes up to twice as long."""


def window_attention(qkv: Tensor, groups: Sequence[tuple[int, Tensor]]) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v, in every window and head.

    Args:
        qkv: (W, T, 3C) float: queries, keys and values of W windows of T tokens, each of them head by head.
        groups: number of windows, in order, and their bias (heads, T, T).

    Returns:
        (W, T, C).
    """
    return _compiled(qkv, groups) if _covers(qkv, groups[0][1]) else window_attention_reference(qkv, groups)


def window_attention_reference(qkv: Tensor, groups: Sequence[tuple[int, Tensor]]) -> Tensor:
    """The reference form, in torch, for every device, with gradients."""
    heads = groups[0][1].shape[0]
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    first, outs = 0, []
    for count, bias in groups:
        part = slice(first, first + count)
        first += count
        out = F.scaled_dot_product_attention(query[part], key[part], value[part], attn_mask=bias[None])
        outs.append(out.transpose(1, 2).flatten(2))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _compiled(qkv: Tensor, groups: Sequence[tuple[int, Tensor]]) -> Tensor:
    qkv = qkv.contiguous()
    out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
    first = 0
    for count, bias in groups:
        torch.ops.proscale.window_attention(qkv[first : first + count], bias.float().contiguous(), out[first : first + count])
        first += count
    return out


def _covers(qkv: Tensor, bias: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or qkv.device.type != "cpu" or not native.has("window_attention"):
        return False
    if native.STATUS.cpu not in FASTER:
        return False
    return qkv.shape[2] == 3 * bias.shape[0] * CHANNELS and qkv.dtype in (torch.float32, torch.bfloat16)
