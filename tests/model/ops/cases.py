"""Inputs of the operator, and what it should give, shared by the tests of its implementations."""

import torch
from torch import Tensor

from proscale.ops.reference import ms_deform_attn_reference, token_centres

SHAPES = {
    "1 level": [9, 14],
    "2 levels, odd": [5, 3, 11, 7],
    "3 levels": [4, 4, 8, 8, 16, 16],
    "4 levels, one row, one column, one pixel": [1, 6, 7, 1, 1, 1, 13, 11],
}
GATES = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
"""Largest allowed |error|, relative to the norm, against the reference form in float64 with the same (rounded) inputs."""


def inputs(
    shapes: list[int],
    dtype: torch.dtype,
    heads: int = 2,
    channels: int = 32,
    points: int = 4,
    queries: int | None = None,
    batch: int = 2,
    device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, offsets of a few pixels (some leave the picture), logits."""
    generator = torch.Generator().manual_seed(0)
    tokens, levels = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True)), len(shapes) // 2
    queries = tokens if queries is None else queries
    value = torch.randn(batch, tokens, heads, channels, dtype=torch.float64, generator=generator)
    offsets = torch.randn(batch, queries, heads, levels, points, 2, dtype=torch.float64, generator=generator) * 3
    logits = torch.randn(batch, queries, heads, levels * points, dtype=torch.float64, generator=generator)
    return value.to(device, dtype), offsets.to(device, dtype), logits.to(device, dtype)


def clear_of_kinks(offsets: Tensor, shapes: list[int]) -> Tensor:
    """Offsets whose samples keep 0.05 pixels away from pixel centres, where the gradient jumps; for queries without a reference."""
    centres = token_centres(tuple(shapes))[:, None, :]
    sizes = torch.tensor([[w, h] for h, w in zip(shapes[::2], shapes[1::2], strict=True)], dtype=torch.float64)
    start = (centres * sizes - 0.5)[None, :, None, :, None, :]
    position = start + offsets.double().cpu()
    fraction = position - position.floor()
    return ((position.floor() + 0.05 + 0.9 * fraction) - start).to(offsets)


def expected(
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shapes: list[int],
    reference_points: Tensor | None = None,
    gradient: Tensor | None = None,
) -> list[Tensor]:
    """The reference form in float64 on the CPU: output, and with `gradient` of the output those of value, offsets and logits."""
    leaves = [x.detach().double().cpu().requires_grad_() for x in (value, offsets, logits)]
    out = ms_deform_attn_reference(*leaves, shapes, None if reference_points is None else reference_points.double().cpu())  # type: ignore[call-arg]
    if gradient is None:
        return [out.detach()]
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.double().cpu())]


def error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    difference = (got.detach().double().cpu() - want).norm()
    return (difference / want.norm()).item() if want.norm() > 0 else difference.item()
