"""Mask logits from the network's frame to the output's, whole or in strips of rows.

A phone's picture has 12 million pixels, and a hundred queries of that size would fill 5 GB: what is needed for all queries at once is
made strip by strip, what is needed per query is made for a few queries at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_VALUES = 2**26
"""Mask values held at full size at once: 256 MiB of float32."""


def resize_mask_logits(mask_logits: Tensor, padded: Sequence[int], resized: Sequence[int], output: Sequence[int]) -> Tensor:
    """Upsample to the padded picture, cut the padding off, resize to the output; bilinear each time.

    Args:
        mask_logits: (Q, h, w) float, stride 4 of the padded picture.
        padded, resized, output: (height, width) in pixels.

    Returns:
        (Q, *output) float.
    """
    if not len(mask_logits):
        return mask_logits.new_empty(0, *output)
    masks = F.interpolate(mask_logits[None], size=tuple(padded), mode="bilinear", align_corners=False)
    masks = masks[:, :, : resized[0], : resized[1]]
    return F.interpolate(masks, size=tuple(output), mode="bilinear", align_corners=False)[0]


def resize_in_strips(
    mask_logits: Tensor,
    padded: Sequence[int],
    resized: Sequence[int],
    output: Sequence[int],
    max_values: int = MAX_VALUES,
    *,
    combine: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """`resize_mask_logits`, strip by strip from the top; equal to it within rounding.

    Args:
        combine: applied at the resized picture's size, before the last resizing: (Q, rows, w) -> (any, rows, w), pixel by pixel.

    Yields:
        the strip's first row, and its mask logits (Q, rows, output width) of at most about `max_values` values, or what `combine`
        makes of them.
    """
    height, width = output
    rows = max(1, max_values // (len(mask_logits) * width)) if len(mask_logits) else height
    if rows >= height and combine is None:
        yield 0, resize_mask_logits(mask_logits, padded, resized, output)
        return
    if combine is None:
        combine = _unchanged
    masks = F.interpolate(mask_logits[None], size=tuple(padded), mode="bilinear", align_corners=False)[0, :, : resized[0], : resized[1]]
    # Bilinear resizing is separable: rows by hand, columns by interpolate, which leaves an equal number of rows alone.
    source = ((torch.arange(height, device=masks.device) + 0.5) * (resized[0] / height) - 0.5).clamp_min(0)
    upper = source.long().clamp_max(resized[0] - 1)
    lower = (upper + 1).clamp_max(resized[0] - 1)
    share = (source - upper)[:, None].to(masks.dtype)
    for start in range(0, height, rows):
        part = slice(start, start + rows)
        strip = torch.lerp(combine(masks[:, upper[part]]), combine(masks[:, lower[part]]), share[part])
        yield start, F.interpolate(strip[None], size=(strip.shape[1], width), mode="bilinear", align_corners=False)[0]


def queries_at_once(output: Sequence[int], max_values: int = MAX_VALUES) -> int:
    """How many queries' masks of `output` (height, width) may be held at once; at least 1."""
    return max(1, max_values // (output[0] * output[1]))


def _unchanged(masks: Tensor) -> Tensor:
    return masks
