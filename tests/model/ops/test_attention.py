"""Attention of many tokens: the compiled form against the reference form."""

import math

import pytest
import torch
from tests.model.ops.builds import BUILDS, check_build
from torch import Tensor

from proscale.ops import attention as module
from proscale.ops import native
from proscale.ops.attention import attention, attention_reference

pytestmark = pytest.mark.skipif(not native.has("attention"), reason=f"nothing is compiled: {native.STATUS.cpu_reason}")
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Greatest difference to float64, for values of a standard normal distribution; bfloat16 has 8 bits, of weights and of results."""


def compiled(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.proscale.attention(query, key, value, allowed)
    return out


def random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("channels", [16, 32, 48, 64, 80, 256])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 15), (48, 64), (49, 129), (100, 512), (5, 513), (130, 2000)])
def test_it_agrees_with_the_reference(queries: int, keys: int, channels: int, dtype: torch.dtype) -> None:
    query, key, value = (random((2, 3, count, channels), dtype) for count in (queries, keys, keys + 1))
    value = value[:, :, 1:]
    allowed = torch.rand(2, queries, keys) > 0.995
    allowed |= ~allowed.any(-1, keepdim=True)  # most rows of many keys see few of them, and nothing in whole chunks
    for mask in (None, allowed):
        want = attention_reference(query.double(), key.double(), value.double(), mask)
        got = compiled(query, key, value, mask)
        assert got.dtype == dtype
        assert got.shape == want.shape
        assert float((got.double() - want).abs().max()) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_views_of_one_projection_are_read_where_they_lie(dtype: torch.dtype) -> None:
    query, key, value = random((2, 70, 3, 4, 32), dtype).permute(2, 0, 3, 1, 4)
    assert torch.equal(compiled(query, key, value), compiled(query.contiguous(), key.contiguous(), value.contiguous()))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_products_of_any_size_are_weighed(dtype: torch.dtype) -> None:
    query, key, value = (random((1, 1, 600, 16), dtype) for _ in range(3))
    for factor in (1e-3, 30.0, 1e4):  # all keys count alike; one counts alone, that comes early or late
        inputs = factor * query, key, value
        want = attention_reference(*(x.double() for x in inputs))
        ours, torchs = (float((form(*inputs).double() - want).abs().max()) for form in (compiled, attention_reference))
        assert ours < TOLERANCES[dtype] + 3 * torchs


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_a_number_is_not_hidden(broken: float, dtype: torch.dtype) -> None:
    query, key, value = (random((1, 1, count, 16), dtype) for count in (60, 700, 700))
    query[0, 0, 3, 5] = broken
    out = compiled(query, key, value)[0]
    assert out[3].isnan().all()
    assert out[torch.arange(60) != 3].isfinite().all()
    key[0, 0, 650, 2] = broken
    assert compiled(query, key, value).isnan().all()


def test_it_runs_where_it_is_faster_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (random((1, 2, 20, 32), torch.float32) for _ in range(3))
    calls: list[object] = []

    def torchs(query: Tensor, *args: object, **options: object) -> Tensor:
        calls.append(args)
        return query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", torchs)

    def asks_torch(*args: Tensor, faster: tuple[str, ...] = (native.STATUS.cpu or "",), amx: bool = False) -> bool:
        calls.clear()
        monkeypatch.setattr(module, "FASTER", faster)
        monkeypatch.setattr(module, "_has_amx", lambda: amx)
        with torch.inference_mode():
            attention(*args)
        return bool(calls)

    halves = (query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert not asks_torch(query, key, value)
    assert not asks_torch(query, key, value, amx=True)
    assert not asks_torch(*halves)
    assert asks_torch(*halves, amx=True)
    assert asks_torch(query, key, value, faster=())
    assert asks_torch(query.double(), key.double(), value.double())
    assert asks_torch(query[..., :20], key[..., :20], value[..., :20])
    assert asks_torch(query.mT.contiguous().mT, key, value)
    attention(query.requires_grad_(), key, value)
    assert calls


def test_what_does_not_fit_is_refused() -> None:
    query, key, value = (torch.randn(1, 2, 20, 32) for _ in range(3))
    for bad in (
        (query, key[:, :1], value),
        (query, key, value[:, :, :5]),
        (query, key.bfloat16(), value),
        (query[..., :24], key[..., :24], value[..., :24]),
        (query[0], key[0], value[0]),
        (query, key[:, :, :0], value[:, :, :0]),
        (query.mT.contiguous().mT, key, value),
        (query, key, value, torch.ones(1, 20, 19, dtype=torch.bool)),
        (query, key, value, torch.ones(1, 20, 20)),
    ):
        with pytest.raises(RuntimeError):
            compiled(*bad)


CHECK = """
import torch
from proscale.ops import native
from proscale.ops.attention import *
query, key, value = torch.randn(3, 2, 3, 140, 48).unbind()
allowed = torch.rand(2, 140, 140) > 0.5
for mask in (None, allowed):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        inputs = query.to(dtype), key.to(dtype), value.to(dtype)
        want = attention_reference(*(x.double() for x in inputs), mask)
        out = torch.ops.proscale.attention(*inputs, mask)
        assert (out.double() - want).abs().max() < tolerance
with torch.inference_mode():  # the plain build is slower than torch, which is taken in its place
    plain = attention_reference(query, key, value)
    out = torch.ops.proscale.attention(query, key, value)
    assert torch.equal(attention(query, key, value), plain if native.STATUS.cpu == "plain" else out)
print(native.STATUS.cpu)
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_every_build_agrees_with_the_reference(build: str) -> None:
    check_build(build, CHECK)
