"""What nvcc makes of the CUDA kernels: registers, spills and instructions per query, read from the binary; no GPU needed."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import proscale.ops

SOURCES = Path(proscale.ops.__file__).parent / "csrc"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")

pytestmark = [pytest.mark.slow, pytest.mark.nvcc, pytest.mark.skipif(NVCC is None, reason="no nvcc")]

SOURCE = """
#include "cuda_kernel.cuh"
namespace proscale::cuda {
template __global__ void forward_kernel<__half, 4, 3>(const __grid_constant__ Parameters);
template __global__ void forward_kernel<__half, 4, 1>(const __grid_constant__ Parameters);
template __global__ void forward_kernel<__nv_bfloat16, 4, 3>(const __grid_constant__ Parameters);
template __global__ void forward_kernel<__half, 4, 0>(const __grid_constant__ Parameters);
template __global__ void backward_kernel<__half, 4, 3>(const __grid_constant__ Parameters);
}
"""
INSTRUCTION = 16  # bytes, since sm_70


def section_sizes(elf: bytes) -> dict[str, int]:
    """Name -> bytes of every section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    name_offset = headers[names][4]
    return {elf[name_offset + h[0] : elf.index(b"\0", name_offset + h[0])].decode(): h[5] for h in headers}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], str]:
    """Instructions per kernel, and what ptxas said."""
    folder = tmp_path_factory.mktemp("cubin")
    (folder / "kernels.cu").write_text(SOURCE)
    command = [NVCC, "-std=c++20", "-O3", "-arch=sm_90", "-cubin", "--resource-usage", f"-I{SOURCES}"]
    run = subprocess.run([*command, "-o", "kernels.cubin", "kernels.cu"], cwd=folder, check=True, capture_output=True, text=True)  # type: ignore[list-item]
    sizes = section_sizes((folder / "kernels.cubin").read_bytes())
    return {name.removeprefix(".text."): size // INSTRUCTION for name, size in sizes.items() if name.startswith(".text.")}, run.stderr


def instructions(compiled: tuple[dict[str, int], str], *parts: str) -> int:
    """Of the one kernel whose name holds all parts. These kernels have no loops: all that is there is executed at most once per query."""
    (count,) = [count for name, count in compiled[0].items() if all(part in name for part in parts)]
    return count


def test_instructions_per_query(compiled: tuple[dict[str, int], str]) -> None:
    """A warp is one query of 8 heads. 768 of the instructions are the conversions and multiply-adds of 12 samples, 4 pixels, 8 channels."""
    assert instructions(compiled, "forward", "6__half", "Li4ELi3E") <= 1208
    assert instructions(compiled, "forward", "__nv_bfloat16", "Li4ELi3E") <= 1208
    assert instructions(compiled, "forward", "6__half", "Li4ELi1E") <= 472


def test_registers_and_spills(compiled: tuple[dict[str, int], str]) -> None:
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", compiled[1])
    assert len(spills) == 10
    assert set(spills) == {"0"}
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", compiled[1])]
    assert len(registers) == 5
    assert max(registers) <= 85  # three blocks of 256 threads per multiprocessor
