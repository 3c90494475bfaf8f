"""The CUDA kernels' own source, compiled for the host with emulated lanes and shuffles, against the reference form in float64."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.model.ops.cases import GATES, SHAPES, clear_of_kinks, error, expected, inputs
from torch import Tensor

import proscale.ops

SOURCES = Path(proscale.ops.__file__).parent / "csrc"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

pytestmark = pytest.mark.slow

Operator = Callable[..., Tensor]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The namespace `torch.ops.proscale_emulated`."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the kernels for the host")
    torch_folder = Path(torch.__file__).parent
    library = tmp_path_factory.mktemp("emulated") / "emulated.so"
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-x", "c++", "-DPROSCALE_EMULATE", "-w"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-isystem", str(torch_folder / "include")]
    flags += [f"-I{Path(__file__).parent / 'emulation'}", f"-I{SOURCES}"]
    link = ["-o", str(library), f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    subprocess.run(["g++", *flags, str(SOURCES / "cuda_op.cu"), *link], check=True)
    torch.ops.load_library(library)
    return torch.ops.proscale_emulated


def agrees(
    op: object,
    leaves: tuple[Tensor, Tensor, Tensor],
    shapes: list[int],
    deterministic: bool = False,
    reference_points: Tensor | None = None,
) -> None:
    """Forward and backward within the gates of the dtype of value (offsets and logits in float32 are held to their own)."""
    value, offsets, logits = leaves
    out = op.ms_deform_attn(value, offsets, logits, shapes, reference_points)  # type: ignore[attr-defined]
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(value.dtype)
    got = [out, *op.ms_deform_attn_backward(gradient, value, offsets, logits, shapes, reference_points, deterministic)]  # type: ignore[attr-defined]
    want = expected(value, offsets, logits, shapes, reference_points, gradient)
    assert [e for e in map(error, got, want) if e > GATES[value.dtype]] == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_dtypes_and_levels(emulated: object, shapes: list[int], dtype: torch.dtype) -> None:
    value, offsets, logits = inputs(shapes, dtype, heads=3, batch=1)
    agrees(emulated, (value, clear_of_kinks(offsets, shapes), logits), shapes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", [[9, 14], [5, 3, 11, 7], [2, 2, 3, 5, 7, 6], [2, 3, 1, 5, 4, 4]], ids=str)
def test_published_models_shapes(emulated: object, shapes: list[int], dtype: torch.dtype) -> None:
    """8 heads of 32 channels with 4 points have kernels of their own, unless a level is a single row."""
    value, offsets, logits = inputs(shapes, dtype, heads=8)
    agrees(emulated, (value, clear_of_kinks(offsets, shapes), logits), shapes)


def test_published_models_shapes_in_views(emulated: object) -> None:
    shapes, op = [5, 3, 11, 7], emulated.ms_deform_attn  # type: ignore[attr-defined]
    value, offsets, logits = inputs(shapes, torch.float16, heads=8)
    want = op(value, offsets, logits, shapes)
    joined = torch.cat([offsets.flatten(2), logits.flatten(2)], -1)
    o, w = joined.split([128, 64], -1)
    assert torch.equal(op(value, o.view(offsets.shape), w.view(logits.shape), shapes), want)
    # A value with gaps between its tokens is no longer at known distances: the kernel for any shape, the same arithmetic.
    gaps = torch.cat([value, value], -1)[..., :32]
    assert error(op(gaps, offsets, logits, shapes), want.double()) < 1e-3


@pytest.mark.parametrize(("channels", "points"), [(8, 1), (8, 5), (16, 3), (24, 4), (40, 2), (64, 4)])
def test_head_sizes_and_points(emulated: object, channels: int, points: int) -> None:
    shapes = SHAPES["2 levels, odd"]
    for dtype in (torch.float32, torch.float16):
        value, offsets, logits = inputs(shapes, dtype, heads=2, channels=channels, points=points, batch=1)
        agrees(emulated, (value, clear_of_kinks(offsets, shapes), logits), shapes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_deterministic_sums(emulated: object, dtype: torch.dtype) -> None:
    shapes = SHAPES["2 levels, odd"]
    value, offsets, logits = inputs(shapes, dtype)
    agrees(emulated, (value, clear_of_kinks(offsets, shapes), logits), shapes, deterministic=True)


def test_float_sampling_beside_half_values(emulated: object) -> None:
    shapes = SHAPES["2 levels, odd"]
    value, offsets, logits = inputs(shapes, torch.float32)
    agrees(emulated, (value.half(), clear_of_kinks(offsets, shapes), logits), shapes)


@pytest.mark.parametrize("batch", [1, 2])
def test_with_reference_points_it_agrees_with_the_reference(emulated: object, batch: int) -> None:
    shapes = SHAPES["3 levels"]
    value, offsets, logits = inputs(shapes, torch.float32, queries=19)
    reference_points = torch.rand(batch, 19, 2, generator=torch.Generator().manual_seed(0))
    agrees(emulated, (value, offsets, logits), shapes, reference_points=reference_points)


def test_views_and_misaligned_memory(emulated: object) -> None:
    shapes, op = SHAPES["2 levels, odd"], emulated.ms_deform_attn  # type: ignore[attr-defined]
    value, offsets, logits = inputs(shapes, torch.float16)
    batch, tokens = value.shape[:2]
    want = op(value, offsets, logits, shapes)
    for pad in (0, 1, 3):
        joined = torch.cat([value.new_zeros(batch, tokens, pad), offsets.flatten(2), logits.flatten(2), value.flatten(2)], -1)
        _, o, w, v = joined.split([pad, 32, 16, 64], -1)
        assert torch.equal(op(v.view(value.shape), o.view(offsets.shape), w.view(logits.shape), shapes), want)


def test_far_samples_are_zero(emulated: object) -> None:
    value, offsets, logits = inputs([3, 5], torch.float32)
    for far in (1e4, -1e9, 3e38, float("inf"), float("-inf")):
        assert emulated.ms_deform_attn(value, torch.full_like(offsets, far), logits, [3, 5]).abs().max() == 0  # type: ignore[attr-defined]


def test_what_is_not_compiled_is_refused(emulated: object) -> None:
    op = emulated.ms_deform_attn  # type: ignore[attr-defined]
    value, offsets, logits = inputs([3, 5], torch.float64)
    with pytest.raises(RuntimeError, match="no float64 on CUDA"):
        op(value, offsets, logits, [3, 5])
    value, offsets, logits = inputs([3, 5], torch.float32, channels=12)
    with pytest.raises(RuntimeError, match="multiple of 8 channels"):
        op(value, offsets, logits, [3, 5])
