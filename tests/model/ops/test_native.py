"""The compiled operator on the CPU against its reference form in float64."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from tests.model.ops.cases import GATES, SHAPES, clear_of_kinks, error, expected, inputs
from torch import Tensor

from proscale.layers.deformable_attention import DeformableAttention
from proscale.ops import native
from proscale.ops.ms_deform_attn import ms_deform_attn
from proscale.ops.reference import ms_deform_attn_reference

pytestmark = pytest.mark.skipif(native.STATUS.cpu is None, reason=f"the operator is not compiled: {native.STATUS.cpu_reason}")

DTYPES = list(GATES)
CAPABILITIES = ["plain", "avx2", "avx512"]


def names(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", DTYPES, ids=names)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_forward_and_backward_agree_with_the_reference(shapes: list[int], dtype: torch.dtype) -> None:
    value, offsets, logits = inputs(shapes, dtype)
    offsets = clear_of_kinks(offsets, shapes)
    leaves = [x.requires_grad_() for x in (value, offsets, logits)]
    out = ms_deform_attn(*leaves, shapes)  # type: ignore[call-arg]
    gradient = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    got = [out, *torch.autograd.grad(out, leaves, gradient)]
    want = expected(*leaves, shapes, gradient=gradient)  # type: ignore[call-arg, misc]
    assert [x.dtype for x in got] == [dtype] * 4
    assert [e for e in map(error, got, want) if e > GATES[dtype]] == []


@pytest.mark.parametrize(("channels", "points"), [(8, 1), (12, 3), (16, 4), (24, 8), (40, 5), (48, 2), (64, 4)])
def test_any_head_size_and_number_of_points_agrees_with_the_reference(channels: int, points: int) -> None:
    shapes = SHAPES["2 levels, odd"]
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        value, offsets, logits = inputs(shapes, dtype, channels=channels, points=points)
        leaves = [x.requires_grad_() for x in (value, clear_of_kinks(offsets, shapes), logits)]
        out = ms_deform_attn(*leaves, shapes)  # type: ignore[call-arg]
        gradient = torch.ones_like(out)
        got = [out, *torch.autograd.grad(out, leaves, gradient)]
        assert max(map(error, got, expected(*leaves, shapes, gradient=gradient))) < GATES[dtype]  # type: ignore[call-arg, misc]


@pytest.mark.parametrize("shared", [False, True], ids=["per picture", "one for all"])
def test_reference_points_and_their_gradient(shared: bool) -> None:
    shapes = SHAPES["3 levels"]
    value, offsets, logits = inputs(shapes, torch.float32, queries=37)
    reference_points = torch.rand(1 if shared else 2, 37, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
    out = ms_deform_attn(value, offsets, logits, shapes, reference_points)
    assert error(out, expected(value, offsets, logits, shapes, reference_points.detach())[0]) < GATES[torch.float32]
    (got,) = torch.autograd.grad(out.sum(), reference_points)
    twin = reference_points.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(ms_deform_attn_reference(value.double(), offsets.double(), logits.double(), shapes, twin).sum(), twin)
    assert error(got, want) < 1e-5  # positions rounded to float32 differently may fall on the other side of a pixel's centre


def test_gradcheck() -> None:
    shapes = [3, 2, 1, 4]
    value, offsets, logits = inputs(shapes, torch.float64, channels=8, points=2, batch=1)
    leaves = [x.requires_grad_() for x in (value, clear_of_kinks(offsets, shapes), logits)]
    assert torch.autograd.gradcheck(lambda v, o, w: ms_deform_attn(v, o, w, shapes), leaves, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=names)
def test_offsets_and_logits_may_be_views_of_one_product(dtype: torch.dtype) -> None:
    shapes, heads = SHAPES["2 levels, odd"], 2
    value, offsets, logits = inputs(shapes, dtype, heads=heads)
    batch, tokens = value.shape[:2]
    joined = torch.cat([offsets.flatten(2), logits.flatten(2), value.flatten(2)], -1)
    parts = joined.split([heads * 16, heads * 8, heads * 32], -1)
    views = (parts[2].view(batch, tokens, heads, 32), parts[0].view(batch, tokens, heads, 2, 4, 2), parts[1].view(batch, tokens, heads, 8))
    assert not any(view.is_contiguous() for view in views)
    assert torch.equal(ms_deform_attn(*views, shapes), ms_deform_attn(value, offsets, logits, shapes))
    turned = value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)  # the last dimension is not dense: copied inside
    assert torch.equal(ms_deform_attn(turned, offsets, logits, shapes), ms_deform_attn(value, offsets, logits, shapes))


def test_samples_outside_are_zero_and_nan_offsets_do_no_harm() -> None:
    shapes = [3, 5]
    value, offsets, logits = inputs(shapes, torch.float32)
    for far in (1e4, -1e9, 3e38, float("inf")):
        assert ms_deform_attn(value, torch.full_like(offsets, far), logits, shapes).abs().max() == 0
    assert ms_deform_attn(value, torch.full_like(offsets, float("nan")), logits, shapes).shape == (2, 15, 64)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    shapes = [32, 32, 16, 16]
    leaves = [x.requires_grad_() for x in inputs(shapes, torch.float32)]
    before = torch.get_num_threads()
    results: list[list[Tensor]] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = ms_deform_attn(*leaves, shapes)  # type: ignore[call-arg]
            results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=names)
@pytest.mark.parametrize("with_reference_points", [False, True], ids=["own centres", "reference points"])
def test_opcheck(dtype: torch.dtype, with_reference_points: bool) -> None:
    shapes = [3, 2, 1, 4]
    leaves = [x.requires_grad_() for x in inputs(shapes, dtype, channels=8)]
    reference_points = torch.rand(1, 10, 2) if with_reference_points else None
    torch.library.opcheck(torch.ops.proscale.ms_deform_attn.default, (*leaves, shapes, reference_points))
    out = torch.randn(2, 10, 16, dtype=dtype)
    arguments = (out, *(x.detach() for x in leaves), shapes, reference_points, False)
    torch.library.opcheck(torch.ops.proscale.ms_deform_attn_backward.default, arguments)


@pytest.mark.slow
def test_compile_without_graph_breaks() -> None:
    shapes = SHAPES["2 levels, odd"]
    layer = DeformableAttention(32, heads=2, levels=2, points=4)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    tokens = torch.randn(2, 92, 32, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    want, got = layer(tokens, tokens, shapes), compiled(tokens, tokens, shapes)
    assert error(got, want.detach().double()) < 1e-6
    gradients = [torch.autograd.grad(out.square().sum(), tokens)[0] for out in (want, got)]
    assert error(gradients[1], gradients[0].double()) < 1e-5


def test_autocast_and_mixed_precision() -> None:
    shapes = SHAPES["2 levels, odd"]
    layer = DeformableAttention(64, heads=2, levels=2, points=4)
    tokens = torch.randn(2, 92, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(tokens, tokens, shapes)
    assert out.dtype == torch.bfloat16
    assert error(out, layer(tokens, tokens, shapes).detach().double()) < 2e-2
    value, offsets, logits = inputs(shapes, torch.float32)
    want = expected(value.bfloat16(), offsets, logits, shapes)[0]
    assert error(ms_deform_attn(value.bfloat16(), offsets, logits, shapes), want) < GATES[torch.bfloat16]
    assert ms_deform_attn(value, offsets.half(), logits.half(), shapes).dtype == torch.float32
    assert ms_deform_attn(value.half(), offsets, logits.half(), shapes).dtype == torch.float16


def test_shapes_without_a_kernel_use_the_reference() -> None:
    shapes = [2, 3]
    value, offsets, logits = inputs(shapes, torch.float32, channels=80)
    assert torch.equal(ms_deform_attn(value, offsets, logits, shapes), ms_deform_attn_reference(value, offsets, logits, shapes))
    with pytest.raises(RuntimeError, match="heads of 1 to 64 channels"):
        torch.ops.proscale.ms_deform_attn(value, offsets, logits, shapes)


def test_wrong_arguments_are_refused() -> None:
    value, offsets, logits = inputs([2, 3], torch.float32)
    op = torch.ops.proscale.ms_deform_attn
    for arguments, words in (
        ((value, offsets, logits, [2, 3, 1, 1]), "4 numbers, offsets 1 levels"),
        ((value, offsets, logits, [2, 2]), "add up to the 6 tokens"),
        ((value, offsets[:, :5], logits[:, :5], [2, 3]), "one query per token"),
        ((value, offsets, logits[..., :3], [2, 3]), "logits must be"),
        ((value, offsets.double(), logits.double(), [2, 3]), "value's dtype"),
        ((value, offsets, logits, [2, 3], torch.rand(1, 6, 2).half()), "reference_points must be float32"),
    ):
        with pytest.raises(RuntimeError, match=words):
            op(*arguments)


def test_empty_batch() -> None:
    value, offsets, logits = inputs([2, 3], torch.float32, batch=0)
    assert ms_deform_attn(value, offsets, logits, [2, 3]).shape == (0, 6, 64)


CHECK = """
import sys, torch
sys.path[:0] = ["."]
from proscale.ops import native
from proscale.ops.ms_deform_attn import ms_deform_attn
from tests.model.ops.cases import GATES, SHAPES, clear_of_kinks, error, expected, inputs
for shapes in SHAPES.values():
    for dtype in GATES:
        value, offsets, logits = inputs(shapes, dtype, channels=16)
        leaves = [x.requires_grad_() for x in (value, clear_of_kinks(offsets, shapes), logits)]
        out = ms_deform_attn(*leaves, shapes)
        gradient = torch.ones_like(out)
        got = [out, *torch.autograd.grad(out, leaves, gradient)]
        assert max(map(error, got, expected(*leaves, shapes, gradient=gradient))) < GATES[dtype], (shapes, dtype)
print(native.STATUS.cpu)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["plain", "avx2"])
def test_every_instruction_set_agrees_with_the_reference(capability: str) -> None:
    """The kernels that this machine would not choose by itself."""
    run = subprocess.run(
        [sys.executable, "-c", CHECK], env=os.environ | {"MS_DEFORM_ATTN_CPU": capability}, capture_output=True, text=True, check=True
    )
    assert CAPABILITIES.index(run.stdout.strip()) <= CAPABILITIES.index(capability)


@pytest.mark.slow
@pytest.mark.parametrize(("force", "present"), list(product(["reference", ""], [True, False])))
def test_without_the_library_the_reference_runs_with_one_warning(force: str, present: bool) -> None:
    code = """
import pathlib, sys, torch
from unittest import mock
if sys.argv[1] == "gone":
    load, exists = torch.ops.load_library, pathlib.Path.exists
    torch.ops.load_library = mock.Mock(side_effect=OSError("no such file"))
    pathlib.Path.exists = lambda path: False if path.name.startswith("_native") else exists(path)
from proscale.ops import native
from proscale.ops.ms_deform_attn import ms_deform_attn
for _ in range(2):
    assert ms_deform_attn(torch.rand(1, 6, 1, 8), torch.rand(1, 6, 1, 1, 2, 2), torch.rand(1, 6, 1, 2), [2, 3]).shape == (1, 6, 8)
print(native.STATUS.cpu is not None)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, "there" if present else "gone"],
        env=os.environ | {native.FORCE: force},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(present and not force)
    said = run.stderr.count("pip install --no-build-isolation")
    assert said == (1 if not present and not force else 0)
