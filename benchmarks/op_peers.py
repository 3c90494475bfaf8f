"""Inputs of the deformable attention operator, and what else computes it: the peers of `op.py` and `dispatch.py`."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proscale.ops.reference import token_centres

SHAPES = {1: [32, 32], 2: [32, 32, 64, 64], 3: [32, 32, 64, 64, 128, 128]}
"""PRO-SCALE's three stages for a picture of 1024 x 1024: levels -> heights and widths; 1024, 5120, 21504 tokens."""
HEADS, CHANNELS, POINTS = 8, 32, 4
SOURCES = Path(__file__).parent / "peers"

Form = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]


def make_inputs(levels: int, batch: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Value; offsets of a few pixels, as trained models have them, and logits: views of one product's output, as in the model."""
    shapes, samples = SHAPES[levels], HEADS * levels * POINTS
    tokens = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True))
    generator = torch.Generator().manual_seed(0)
    joined = torch.randn(batch, tokens, samples * 3, generator=generator)
    joined[..., : samples * 2] *= 2
    joined = joined.to(device, dtype)
    value = torch.randn(batch, tokens, HEADS, CHANNELS, generator=generator).to(device, dtype)
    offsets = joined[..., : samples * 2].unflatten(-1, (HEADS, levels, POINTS, 2))
    return value, offsets, joined[..., samples * 2 :].unflatten(-1, (HEADS, levels * POINTS))


def locations_and_weights(offsets: Tensor, logits: Tensor, shapes: list[int]) -> tuple[Tensor, Tensor]:
    """What the peers want made for them: float32 locations in 0..1 and softmaxed weights."""
    size = torch.tensor([[w, h] for h, w in zip(shapes[::2], shapes[1::2], strict=True)], dtype=torch.float32, device=offsets.device)
    centres = token_centres(tuple(shapes)).float().to(offsets.device)[None, :, None, None, None]
    return centres + offsets.float() / size[None, None, None, :, None], logits.float().softmax(-1)


class Classic(torch.autograd.Function):
    """The gather of `peers/classic.cpp` or `.cu` with its gradient (on the CPU)."""

    @staticmethod
    def forward(ctx: Any, library: Any, shapes: list[int], value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        value, locations, weights = (x.contiguous() for x in (value, locations, weights))
        batch, tokens, heads, channels = value.shape
        levels, points = locations.shape[3:5]
        areas = [h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True)]
        sizes = torch.tensor(shapes, device=value.device)
        starts = torch.tensor([sum(areas[:level]) for level in range(levels)], device=value.device)
        ctx.library, ctx.numbers = library, (batch, tokens, heads, channels, locations.shape[1], levels, points)
        ctx.save_for_backward(value, sizes, starts, locations, weights)
        out = torch.empty(batch, locations.shape[1], heads * channels, device=value.device)
        call(library.classic, (value, sizes, starts, locations, weights, out), ctx.numbers)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, sizes, starts, locations, weights = ctx.saved_tensors
        by_value, by_locations, by_weights = torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights)
        tensors = (value, sizes, starts, locations, weights, gradient.contiguous(), by_value, by_locations, by_weights)
        call(ctx.library.classic_backward, tensors, ctx.numbers)
        return None, None, by_value, by_locations, by_weights


def call(function: Any, tensors: Sequence[Tensor], numbers: Sequence[int]) -> None:
    """A C function of pointers and 64-bit numbers."""
    function(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), *map(ctypes.c_int64, numbers))


def classic_form(device: str) -> Form | None:
    """The classic arithmetic in float32, compiled for this very machine, or None where its compiler is missing."""
    folder = Path(tempfile.mkdtemp())
    cpu = ["g++", "-O3", "-march=native", "-fopenmp", "-ffast-math", "-shared", "-fPIC"]
    command = ["nvcc", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"] if device == "cuda" else cpu
    source, library_path = SOURCES / ("classic.cu" if device == "cuda" else "classic.cpp"), folder / "classic.so"
    try:
        subprocess.run([*command, str(source), "-o", str(library_path)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"classic left out: {error}")
        return None
    library = ctypes.CDLL(str(library_path))

    def run(value: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
        locations, weights = locations_and_weights(offsets, logits, shapes)
        result: Tensor = Classic.apply(library, shapes, value.float(), locations, weights)
        return result

    return run


def transformers_form() -> Form | None:
    """Transformers' function with the softmax and locations before it, or None where it is not installed."""
    try:
        from transformers.models.mask2former import modeling_mask2former as theirs
    except ImportError:
        return None

    def run(value: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
        locations, weights = locations_and_weights(offsets, logits, shapes)
        pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
        weights = weights.unflatten(-1, (len(pairs), POINTS))
        result: Tensor = theirs.multi_scale_deformable_attention(value, pairs, locations.to(value.dtype), weights.to(value.dtype))
        return result

    return run


def transformers_module(levels: int, tokens: Tensor, shapes: list[int]) -> Callable[[], None] | None:
    """One pass of transformers' attention module, projections included, or None where it is not installed."""
    try:
        from transformers.models.mask2former import modeling_mask2former as theirs
    except ImportError:
        return None
    module = theirs.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(HEADS * CHANNELS, HEADS, levels, POINTS)
    module = module.to(tokens.device, tokens.dtype).eval()
    pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
    centres = token_centres(tuple(shapes)).to(tokens.device, tokens.dtype)[None, :, None].expand(len(tokens), -1, levels, -1)

    def run() -> None:
        with torch.inference_mode():
            module(hidden_states=tokens, encoder_hidden_states=tokens, reference_points=centres, spatial_shapes_list=pairs)

    return run
