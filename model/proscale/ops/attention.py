"""Attention of many queries to many keys, without the products of all of them in memory (arXiv 2112.05682)."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.ops import native

CHANNELS_STEP, MOST_CHANNELS = 16, 256
"""Heads of a multiple of so many channels, and at most so many, are compiled (`csrc/attention.h`)."""
FASTER = ("avx2", "avx512")
"""Builds of it that are faster than torch (`benchmarks/dispatch.py`); the plain one takes up to three times as long."""


def attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v, in every head.

    Args:
        query: (B, heads, Q, d) float.
        key: (B, heads, K, d).
        value: (B, heads, K, d).
        allowed: (B or 1, Q, K) bool, True where a query may look; every query must be allowed one key at least.

    Returns:
        (B, Q, heads * d): the heads side by side.
    """
    if _covers(query, key, value):
        mask = None if allowed is None else allowed.expand(query.shape[0], -1, -1).contiguous()
        out: Tensor = torch.ops.proscale.attention(query, key, value, mask)
        return out
    return attention_reference(query, key, value, allowed)


def attention_reference(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The reference form, in torch, for every device, with gradients."""
    mask = None if allowed is None else allowed[:, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def _covers(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or query.device.type != "cpu" or not native.has("attention"):
        return False
    if native.STATUS.cpu not in FASTER or query.shape[-1] % CHANNELS_STEP or query.shape[-1] > MOST_CHANNELS or not query.numel():
        return False
    if not query.dtype == key.dtype == value.dtype or any(x.stride(-1) != 1 for x in (query, key, value)):
        return False
    return query.dtype == torch.float32 or (query.dtype == torch.bfloat16 and not _has_amx())


@cache
def _has_amx() -> bool:
    """Whether torch's own way multiplies tiles of bfloat16, which the compiled form does not."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
