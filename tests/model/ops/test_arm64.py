"""The plain CPU kernels on arm64: compiled by a cross compiler, run by an emulator, against the reference form in float64."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from tests.model.ops.cases import GATES, SHAPES, clear_of_kinks, error, expected, inputs
from torch import Tensor

import proscale.ops

SOURCES = Path(proscale.ops.__file__).parent / "csrc"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
FLAGS = ["-std=c++20", "-O2", "-fvisibility=hidden", "-ffp-contract=fast", "-fwrapv", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
FLAGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]  # as in setup.py
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no cross compiler (apt install g++-aarch64-linux-gnu)"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for arm64 around the kernels."""
    program = tmp_path_factory.mktemp("arm64") / "driver"
    sources = [SOURCES / "cpu_kernel.cpp", Path(__file__).parent / "emulation/cpu_driver.cpp"]
    subprocess.run([str(COMPILER), *FLAGS, "-DPROSCALE_SET=plain", f"-I{SOURCES}", "-static", *sources, "-o", program], check=True)
    return program


@pytest.mark.slow
def test_the_operator_around_the_kernels_compiles(tmp_path: Path) -> None:
    include = Path(torch.__file__).parent / "include"
    command = [str(COMPILER), *FLAGS, STABLE_ABI, "-isystem", include, "-c", SOURCES / "cpu_op.cpp", "-o", tmp_path / "op.o"]
    subprocess.run(command, check=True)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="no emulator (apt install qemu-user-static)")
@pytest.mark.parametrize("dtype", GATES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_forward_and_backward(driver: Path, shapes: list[int], dtype: torch.dtype) -> None:
    value, offsets, logits = inputs(shapes, dtype, channels=24, points=3)
    offsets = clear_of_kinks(offsets, shapes)
    batch, tokens, heads, channels = value.shape
    gradient = torch.randn(batch, tokens, heads * channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    head = struct.pack(f"<{6 + len(shapes)}i", batch, heads, channels, len(shapes) // 2, 3, TYPES[dtype], *shapes)
    problem = head + b"".join(map(bits, (value, offsets, logits, gradient)))
    raw = subprocess.run([str(EMULATOR), driver], input=problem, stdout=subprocess.PIPE, check=True).stdout
    results = torch.frombuffer(bytearray(raw), dtype=dtype).split([gradient.numel(), value.numel(), offsets.numel(), logits.numel()])
    got = [part.view(like.shape) for part, like in zip(results, (gradient, value, offsets, logits), strict=True)]
    want = expected(value, offsets, logits, shapes, gradient=gradient)
    assert [e for e in map(error, got, want) if e > GATES[dtype]] == []
