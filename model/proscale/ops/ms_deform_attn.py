"""Multi-scale deformable attention, the operator that every encoder layer calls.

The one place where an implementation is chosen: the compiled operator where there is one, else its reference form in pure torch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from proscale.ops import native
from proscale.ops.reference import ms_deform_attn_reference


def ms_deform_attn(
    value: Tensor, offsets: Tensor, logits: Tensor, spatial_shapes: Sequence[int], reference_points: Tensor | None = None
) -> Tensor:
    """Weighted bilinear samples of `value` around every query; see `ms_deform_attn_reference` for the arithmetic.

    Everything is accumulated in float32 (float64 for float64 inputs). Mixed precision, as autocast makes it: `value` decides the output's
    dtype; offsets and logits may share it, or be float32 beside a half precision value; anything else is converted to fit.

    Args:
        value: (B, N, heads, d) float64, float32, float16 or bfloat16.
        offsets: (B, Q, heads, levels, points, 2), (x, y) in pixels of the level sampled.
        logits: (B, Q, heads, levels * points), before the softmax.
        spatial_shapes: h0, w0, h1, w1, ... as host integers, so that no device synchronisation is needed.
        reference_points: (B, Q, 2) or (1, Q, 2) in 0..1, or None when every query sits at its own token's centre (Q = N).

    Returns:
        (B, Q, heads * d) in value's dtype.
    """
    if not native.covers(value, offsets.shape[3], logits.shape[-1]):
        return ms_deform_attn_reference(value, offsets, logits, spatial_shapes, reference_points)
    if sum(h * w for h, w in zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True)) != value.shape[1]:
        raise ValueError(f"spatial_shapes {list(spatial_shapes)} do not add up to the {value.shape[1]} tokens of value")
    sampling = _sampling_dtype(value, offsets, logits)
    if reference_points is not None:
        reference_points = reference_points.to(torch.float64 if value.dtype == torch.float64 else torch.float32)
    out: Tensor = torch.ops.proscale.ms_deform_attn(
        value, offsets.to(sampling), logits.to(sampling), list(spatial_shapes), reference_points
    )
    return out


def _sampling_dtype(value: Tensor, offsets: Tensor, logits: Tensor) -> torch.dtype:
    if value.dtype not in (torch.float16, torch.bfloat16):
        return value.dtype
    return value.dtype if offsets.dtype == logits.dtype == value.dtype else torch.float32
