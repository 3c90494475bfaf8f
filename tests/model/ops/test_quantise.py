"""Floats to bytes, and attention inside windows: the compiled forms against their reference forms."""

import pytest
import torch
from tests.model.ops.builds import BUILDS, check_build

from proscale.ops import native
from proscale.ops.quantise import norm_quantise, norm_quantise_reference, quantise, quantise_reference
from proscale.ops.window_attention import window_attention, window_attention_reference

pytestmark = pytest.mark.skipif(not native.has("window_attention"), reason=f"nothing is compiled: {native.STATUS.cpu_reason}")


def nearly_the_same(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal bytes, but for values that lie between two."""
    apart = (got.int() - want.int()).abs()
    return got.dtype == torch.uint8 and got.shape == want.shape and int(apart.max()) <= 1 and float((apart > 0).float().mean()) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 7, 96), (70_001,)])
def test_bytes_agree_with_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert nearly_the_same(quantise(x, 0.031, 117), quantise_reference(x, 0.031, 117))


def test_what_no_byte_holds_is_the_nearest_byte() -> None:
    x = torch.tensor([float("-inf"), -1e30, -0.51, -0.5, 0.0, 0.5, 1.5, 254.5, 255.6, 1e30, float("inf"), float("nan")] * 3)
    assert quantise(x, 1.0, 0).tolist() == [0, 0, 0, 0, 0, 0, 2, 254, 255, 255, 255, 0] * 3


def test_what_is_not_contiguous_is_read_in_its_own_order() -> None:
    x = torch.randn(4, 6, 8).permute(2, 0, 1)
    assert nearly_the_same(quantise(x, 0.02, 100), quantise_reference(x, 0.02, 100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 32, 100, 384])
def test_normed_bytes_agree_with_the_reference(channels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    x = (5 + 2 * torch.randn(2, 301, channels, generator=generator)).to(dtype)
    weight, bias = torch.randn(2, channels, generator=generator).to(dtype)
    arguments = (x, weight, bias, 1e-5, 0.03, 120)
    assert nearly_the_same(norm_quantise(*arguments), norm_quantise_reference(*arguments))


def test_scales_and_shapes_that_make_no_sense_are_refused() -> None:
    x = torch.randn(2, 8)
    with pytest.raises(RuntimeError, match="scale must be above 0"):
        quantise(x, 0.0, 0)
    with pytest.raises(RuntimeError, match="zero point must be a byte"):
        quantise(x, 1.0, 256)
    with pytest.raises(RuntimeError, match="one per channel"):
        norm_quantise(x, torch.ones(7), torch.zeros(7), 1e-5, 1.0, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize(("tokens", "heads"), [(49, 3), (16, 1), (144, 2), (1, 2)])
def test_windows_agree_with_the_reference(tokens: int, heads: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(7, tokens, 3 * heads * 32, generator=generator).to(dtype)
    bias = torch.randn(heads, tokens, tokens, generator=generator).to(dtype)
    blocked = bias.clone()
    blocked[:, :, tokens // 2 :] -= 100
    groups = [(5, bias), (2, blocked)]
    want = window_attention_reference(qkv.double(), [(count, each.double()) for count, each in groups])
    with torch.inference_mode():
        got = window_attention(qkv, groups)
    assert got.dtype == dtype
    assert float((got.double() - want).abs().max()) < tolerance


CHECK = """
import torch
from proscale.ops import native
from proscale.ops.quantise import *
from proscale.ops.window_attention import *
x, qkv, bias = torch.randn(333, 100), torch.randn(5, 49, 288), torch.randn(3, 49, 49)
with torch.inference_mode():
    for each in (x, x.bfloat16()):
        norm, to = (each, x[0], x[1], 1e-5), (0.03, 99)
        normed = norm_quantise(*norm, *to), norm_quantise_reference(*norm, *to)
        for got, want in (normed, (quantise(each, *to), quantise_reference(each, *to))):
            off = (got.int() - want.int()).abs()
            assert off.max() <= 1 and (off > 0).float().mean() < 0.01
    want, out = window_attention_reference(qkv, [(5, bias)]), torch.empty(5, 49, 96)
    torch.ops.proscale.window_attention(qkv, bias, out)
    assert torch.allclose(out, want, atol=1e-5)
    # The plain build is slower than torch, which is taken in its place.
    assert torch.equal(window_attention(qkv, [(5, bias)]), want if native.STATUS.cpu == "plain" else out)
print(native.STATUS.cpu)
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_every_build_agrees_with_the_reference(build: str) -> None:
    check_build(build, CHECK)
