"""The deformable attention, whichever form runs here, and its reference form in pure torch against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from proscale.ops.ms_deform_attn import ms_deform_attn
from proscale.ops.reference import token_centres

CASES = {"one level": [3, 4], "two levels, odd sizes": [2, 3, 5, 7], "three levels, one pixel": [1, 1, 2, 2, 4, 3]}


def loops(value: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int], reference_points: Tensor) -> np.ndarray:
    """The definition, sample by sample: value of the four pixels around a point, zero outside."""
    batch, queries, heads, levels, points, _ = offsets.shape
    out = np.zeros((batch, queries, heads, value.shape[3]))
    weights = logits.double().softmax(-1).view(batch, queries, heads, levels, points)
    for b, q, h, level, p in np.ndindex(batch, queries, heads, levels, points):
        height, width = shapes[2 * level], shapes[2 * level + 1]
        start = sum(shapes[2 * i] * shapes[2 * i + 1] for i in range(level))
        x, y = (reference_points[b % len(reference_points), q] * torch.tensor([width, height]) + offsets[b, q, h, level, p] - 0.5).tolist()
        for iy in (math.floor(y), math.floor(y) + 1):
            for ix in (math.floor(x), math.floor(x) + 1):
                if 0 <= iy < height and 0 <= ix < width:
                    share = (1 - abs(x - ix)) * (1 - abs(y - iy)) * weights[b, q, h, level, p].item()
                    out[b, q, h] += share * value[b, start + iy * width + ix, h].numpy()
    return out.reshape(batch, queries, -1)


def inputs(shapes: list[int], queries: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    tokens = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True))
    levels = len(shapes) // 2
    value = torch.randn(2, tokens, 2, 3, dtype=dtype)
    return value, torch.randn(2, queries, 2, levels, 4, 2, dtype=dtype) * 2, torch.randn(2, queries, 2, levels * 4, dtype=dtype)


@pytest.mark.parametrize("shapes", CASES.values(), ids=CASES.keys())
def test_reference_agrees_with_loops(shapes: list[int]) -> None:
    reference_points = torch.rand(2, 5, 2, dtype=torch.float64)
    value, offsets, logits = inputs(shapes, 5)
    expected = loops(value, offsets, logits, shapes, reference_points)
    assert np.allclose(ms_deform_attn(value, offsets, logits, shapes, reference_points), expected, atol=1e-12)


def test_without_reference_points_queries_are_at_their_tokens() -> None:
    shapes = CASES["two levels, odd sizes"]
    value, offsets, logits = inputs(shapes, queries=2 * 3 + 5 * 7)
    centres = token_centres(tuple(shapes)).double()[None]
    assert torch.allclose(
        ms_deform_attn(value, offsets, logits, shapes), ms_deform_attn(value, offsets, logits, shapes, centres), atol=1e-12
    )
    assert centres[0, 0].tolist() == pytest.approx([1 / 6, 1 / 4])
    assert centres[0, 6].tolist() == pytest.approx([1 / 14, 1 / 10])


def test_gradients() -> None:
    shapes = [2, 3, 3, 2]
    value, offsets, logits = inputs(shapes, 3)
    reference_points = torch.rand(1, 3, 2, dtype=torch.float64)
    # Samples near whole coordinates are kinks, where a numerical derivative means nothing; these seeds keep clear of them.
    assert torch.autograd.gradcheck(
        lambda v, o, w: ms_deform_attn(v, o, w, shapes, reference_points), tuple(x.requires_grad_() for x in (value, offsets, logits))
    )


def test_inconsistent_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up to the 12 tokens"):
        ms_deform_attn(*inputs([3, 4], 2), [3, 5], torch.rand(1, 2, 2, dtype=torch.float64))
