"""The fused linear layer against torch's public functions."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from proscale.layers import linear as module
from proscale.layers.linear import Activation, apply_linear, linear_plain


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_agrees_with_plain(activation: Activation, dtype: torch.dtype, bias: bool) -> None:
    layer = nn.Linear(48, 40, bias=bias).to(dtype)
    x = torch.randn(3, 7, 96).to(dtype)[..., ::2]  # not contiguous
    exact = linear_plain(x.double(), layer.weight.double(), layer.bias.double() if bias else None, activation)
    with torch.inference_mode():
        out = apply_linear(layer, x, activation)
    assert out.dtype == dtype
    assert out.shape == (3, 7, 40)
    assert torch.allclose(out.double(), exact, atol=1e-5 if dtype == torch.float32 else 2e-2)
    if dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # whichever way this processor takes
        fused = module.linear_fused(x, layer.weight, layer.bias, activation)
        assert torch.allclose(fused.double(), exact, atol=1e-5)


@pytest.mark.slow
def test_processors_without_avx512_use_torchs_layers() -> None:
    """There oneDNN's GELU costs more than it saves; each capability is tried in a process of its own."""
    code = "import torch; from proscale.layers.linear import _wins_unpacked; print(_wins_unpacked(torch.float32))"
    for capability, fused in (("avx2", "False"), ("default", "False")):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == fused, capability
    module._wins_unpacked.cache_clear()
    assert module._wins_unpacked(torch.float32) == (torch.backends.cpu.get_cpu_capability() == "AVX512")


def test_gradients_autocast_and_other_dtypes_use_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the fused layer has no gradient")

    monkeypatch.setattr(module, "linear_fused", fail)
    layer = nn.Linear(4, 4)
    apply_linear(layer, torch.randn(2, 4), "relu").sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert apply_linear(layer, torch.randn(2, 4)).dtype == torch.bfloat16
    with torch.inference_mode():
        apply_linear(layer.double(), torch.randn(2, 4, dtype=torch.float64))
