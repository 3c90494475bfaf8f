"""A convolution and its ReLU in one kernel, against torch's public functions."""

import pytest
import torch

from proscale.layers.convolution import convolution, convolution_fused, convolution_plain
from proscale.precision import cpu_bfloat16

needs_fused = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_convolution_pointwise"), reason="torch has no oneDNN")


@needs_fused
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_form_agrees_with_torchs(kernel: int, stride: int, relu: bool, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not cpu_bfloat16()[0]:
        pytest.skip(cpu_bfloat16()[1])
    x = torch.randn(2, 5, 19, 23).to(dtype, memory_format=torch.channels_last)
    weight, bias = torch.randn(11, 5, kernel, kernel).to(dtype), torch.randn(11).to(dtype)
    size = [stride] * 2, [kernel // 2] * 2
    with torch.inference_mode():
        want = convolution_plain(x.double(), weight.double(), bias.double(), *size, relu)
        for form in (convolution_fused, convolution):
            got = form(x, weight, bias, *size, relu)
            assert got.dtype == dtype
            torch.testing.assert_close(
                got.double(), want, rtol=0.01 if dtype == torch.bfloat16 else 1e-5, atol=0.01 if dtype == torch.bfloat16 else 1e-5
            )


def test_it_has_gradients() -> None:
    x, weight, bias = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3, requires_grad=True), torch.randn(3)
    convolution(x, weight, bias, [1, 1], [1, 1], relu=True).sum().backward()
    assert weight.grad is not None
