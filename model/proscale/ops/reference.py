"""Multi-scale deformable attention in plain PyTorch: the definition of correct for every other implementation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.ops.constants import constant_tensor


def ms_deform_attn_reference(
    value: Tensor, offsets: Tensor, logits: Tensor, spatial_shapes: Sequence[int], reference_points: Tensor | None = None
) -> Tensor:
    """Weighted bilinear samples of `value` around every query (Deformable DETR, arXiv 2010.04159, equation 3).

    Computed in float32, or float64 for float64 inputs: half precision cannot tell neighbouring pixels of a picture apart.
    Samples outside a level are zero; coordinates follow `align_corners=False`: pixel i of a level of width W has its centre at i + 0.5.

    Args:
        value: (B, N, heads, d) float, tokens of all levels one after the other, each row-major.
        offsets: (B, Q, heads, levels, points, 2) float, (x, y) in pixels of the level sampled.
        logits: (B, Q, heads, levels * points) float, softmaxed over levels and points together.
        spatial_shapes: height and width of every level, flattened: h0, w0, h1, w1, ...; their areas sum to N.
        reference_points: (B, Q, 2) or (1, Q, 2) float, (x, y) in 0..1 of the picture. None: query i sits at the centre of token i (Q = N).

    Returns:
        (B, Q, heads * d) in value's dtype.
    """
    shapes = list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
    batch, tokens, heads, channels = value.shape
    queries, points = offsets.shape[1], offsets.shape[4]
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    out_dtype, value, offsets, logits = value.dtype, value.to(dtype), offsets.to(dtype), logits.to(dtype)
    if sum(h * w for h, w in shapes) != tokens:
        raise ValueError(f"spatial_shapes {list(spatial_shapes)} do not add up to the {tokens} tokens of value")
    reference_points = token_centres(tuple(spatial_shapes))[None] if reference_points is None else reference_points
    reference_points = reference_points.to(dtype).to(offsets.device)
    weights = logits.softmax(-1).view(batch, queries, heads, len(shapes), points)
    samples = []
    for level, (tokens_of_level, (height, width)) in enumerate(zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)):
        size = torch.tensor([width, height], dtype=dtype, device=offsets.device)
        # In grid_sample's frame the picture spans -1..1; an offset of one pixel is 2 / size there.
        grid = (reference_points[:, :, None, None, :] + offsets[:, :, :, level] / size) * 2 - 1
        grid = grid.transpose(1, 2).flatten(0, 1)  # (B * heads, Q, points, 2)
        picture = tokens_of_level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        samples.append(F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    stacked = torch.stack(samples, dim=-2)  # (B * heads, d, Q, levels, points)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, len(shapes), points)
    out = (stacked * weights).sum((-1, -2))
    return out.view(batch, heads * channels, queries).transpose(1, 2).contiguous().to(out_dtype)


@constant_tensor(maxsize=64)
def token_centres(spatial_shapes: tuple[int, ...]) -> Tensor:
    """Centre of every token as (x, y) in 0..1 of the picture.

    Args:
        spatial_shapes: h0, w0, h1, w1, ...

    Returns:
        (N, 2) float64 on the CPU.
    """
    centres = []
    for height, width in zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True):
        y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([grid_x.flatten(), grid_y.flatten()], -1))
    return torch.cat(centres)
