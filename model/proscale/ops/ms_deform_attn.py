"""Multi-scale deformable attention, the operator that every encoder layer calls.

The one place where an implementation is chosen. Today that is the pure-torch twin on every device.
"""

from collections.abc import Sequence

from torch import Tensor

from proscale.ops.reference import ms_deform_attn_reference


def ms_deform_attn(
    value: Tensor, offsets: Tensor, logits: Tensor, spatial_shapes: Sequence[int], reference: Tensor | None = None
) -> Tensor:
    """Weighted bilinear samples of `value` around every query; see `ms_deform_attn_reference` for the arithmetic.

    Args:
        value: (B, N, heads, d).
        offsets: (B, Q, heads, levels, points, 2), (x, y) in pixels of the level sampled.
        logits: (B, Q, heads, levels * points), before the softmax.
        spatial_shapes: h0, w0, h1, w1, ... as host integers, so that no device synchronisation is needed.
        reference: (B, Q, 2) in 0..1, or None when every query sits at its own token's centre.

    Returns:
        (B, Q, heads * d).
    """
    return ms_deform_attn_reference(value, offsets, logits, spatial_shapes, reference)
