"""The CUDA operator on a GPU against the reference form in float64. `benchmarks/gpu_checks.py` runs this and the benchmarks."""

from collections.abc import Iterator

import pytest
import torch
from tests.model.ops.cases import GATES, SHAPES, clear_of_kinks, error, expected, inputs

from proscale.layers.deformable_attention import DeformableAttention
from proscale.ops import native
from proscale.ops.ms_deform_attn import ms_deform_attn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(torch.cuda.is_available() and not native.STATUS.cuda, reason=f"not compiled: {native.STATUS.cuda_reason}"),
]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("channels", "points"), [(32, 4), (8, 3), (24, 5), (64, 4)])
def test_forward_and_backward(shapes: list[int], dtype: torch.dtype, channels: int, points: int) -> None:
    value, offsets, logits = inputs(shapes, dtype, heads=8, channels=channels, points=points, device="cuda")
    leaves = [x.requires_grad_() for x in (value, clear_of_kinks(offsets, shapes), logits)]
    out = ms_deform_attn(*leaves, shapes)  # type: ignore[call-arg]
    gradient = torch.randn_like(out)
    got = [out, *torch.autograd.grad(out, leaves, gradient)]
    want = expected(*leaves, shapes, gradient=gradient)  # type: ignore[call-arg, misc]
    assert [e for e in map(error, got, want) if e > GATES[dtype]] == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("deterministic")
def test_deterministic_gradients(dtype: torch.dtype) -> None:
    shapes = [64, 64, 32, 32]
    leaves = [x.requires_grad_() for x in inputs(shapes, dtype, heads=8, device="cuda")]
    results = []
    for _ in range(3):
        out = ms_deform_attn(*leaves, shapes)  # type: ignore[call-arg]
        results.append(torch.autograd.grad(out, leaves, torch.ones_like(out)))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
    want = expected(*leaves, shapes, gradient=torch.ones_like(out))[1]  # type: ignore[call-arg, misc]
    assert error(results[0][0], want) < GATES[dtype]


def test_opcheck() -> None:
    shapes = [3, 2, 1, 4]
    leaves = [x.requires_grad_() for x in inputs(shapes, torch.float32, channels=8, device="cuda")]
    torch.library.opcheck(torch.ops.proscale.ms_deform_attn.default, (*leaves, shapes))


def test_cuda_graph_and_other_streams() -> None:
    shapes = SHAPES["3 levels"]
    value, offsets, logits = inputs(shapes, torch.float16, heads=8, device="cuda")
    want = ms_deform_attn(value, offsets, logits, shapes)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ms_deform_attn(value, offsets, logits, shapes)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ms_deform_attn(value, offsets, logits, shapes)
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, want)


def test_autocast_and_compile() -> None:
    shapes = SHAPES["2 levels, odd"]
    layer = DeformableAttention(256, heads=8, levels=2, points=4).cuda()
    tokens = torch.randn(2, 92, 256, device="cuda")
    want = layer(tokens, tokens, shapes)
    with torch.autocast("cuda", torch.float16):
        assert error(layer(tokens, tokens, shapes), want.detach().double().cpu()) < 1e-2
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert error(compiled(tokens, tokens, shapes), want.detach().double().cpu()) < 1e-4


def test_tensors_may_have_more_than_2_to_the_31_elements() -> None:
    """Batch x tokens x channels beyond 32 bits: 20 GB of memory."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("not enough GPU memory")
    shapes, batch = [128, 128, 64, 64, 32, 32], 400
    tokens = 21504
    value = torch.zeros(batch, tokens, 8, 32, dtype=torch.float16, device="cuda")
    value[-1] = torch.randn(tokens, 8, 32, device="cuda")
    offsets = torch.zeros(1, tokens, 8, 3, 4, 2, dtype=torch.float16, device="cuda").expand(batch, -1, -1, -1, -1, -1)
    logits = torch.zeros(1, tokens, 8, 12, dtype=torch.float16, device="cuda").expand(batch, -1, -1, -1)
    out = ms_deform_attn(value, offsets, logits, shapes)
    assert torch.equal(out[-1:], ms_deform_attn(value[-1:], offsets[-1:], logits[-1:], shapes))
    assert out[0].abs().max() == 0
