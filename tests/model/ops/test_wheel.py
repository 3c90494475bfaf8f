"""The package as a wheel: the compiled operator is inside, and works where only the wheel is installed."""

import os
import shutil
import struct
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
ARCHITECTURES = [80, 90]
"""A part of what an installation compiles by default, so that this takes half a minute instead of two."""

needs_nvcc = [pytest.mark.nvcc, pytest.mark.skipif(NVCC is None, reason="no nvcc")]


def output(*command: str | Path, **environment: str) -> str:
    run = subprocess.run([str(part) for part in command], env=os.environ | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a source distribution of a copy of the sources: nothing compiled before slips in, and the distribution must be whole."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns("_native*", "__pycache__", "*.egg-info")
    for name in ("model", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    options = {"MS_DEFORM_ATTN_CUDA": "1" if NVCC else "0", "MS_DEFORM_ATTN_ARCHS": ";".join(map(str, ARCHITECTURES)), "NVCC": NVCC or ""}
    # What is built and packed is tested here. Optimised, as all other tests run it, it takes several times as long to compile.
    options["CXX"] = str(folder / "compiler")
    Path(options["CXX"]).write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    Path(options["CXX"]).chmod(0o755)
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, str(folder / "sdist")], cwd=folder, capture_output=True, text=True, check=True)
    sdist = folder / "sdist" / run.stdout.split()[-1]
    command = [sys.executable, "-m", "pip", "wheel", sdist, "--no-deps", "--no-build-isolation", "--no-index", "-w", folder / "out"]
    output(*command, **options)
    (path,) = (folder / "out").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel; all else comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    output(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


@pytest.mark.slow
def test_the_wheel_contains_the_operator(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "proscale/ops/_native.so" in names
    assert ("proscale/ops/_native_cuda.so" in names) == (NVCC is not None)
    assert not any(name.startswith("proscale/ops/") and name.endswith(".txt") for name in names)  # notes of what failed


@pytest.mark.slow
def test_it_runs_where_only_the_wheel_is_installed(installed: Path, tmp_path: Path) -> None:
    others = str(Path(torch.__file__).parents[1])
    code = "import proscale, sys; from proscale.cli import main; print(proscale.__file__); sys.argv[1:] = ['doctor']; main()"
    run = subprocess.run(
        [installed, "-c", code], env=os.environ | {"PYTHONPATH": others}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(installed.parents[1]) in run.stdout.splitlines()[0]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("operator on the CPU")]
    assert "compiled" in line
    assert str(installed.parents[1]) in line


@pytest.fixture(scope="module")
def cuda_library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(zipfile.ZipFile(wheel).extract("proscale/ops/_native_cuda.so", tmp_path_factory.mktemp("cuda")))


def sections(elf: bytes) -> dict[str, bytes]:
    """Name -> content of the sections of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    start = headers[names][4]
    return {elf[start + h[0] : elf.index(b"\0", start + h[0])].decode(): elf[h[4] : h[4] + h[5]] for h in headers}


def device_code(fatbin: bytes) -> Iterator[tuple[str, int]]:
    """("elf" or "ptx", architecture) of everything in an `.nv_fatbin` section."""
    at = 0
    while at + 16 <= len(fatbin):
        magic, _, header, size = struct.unpack_from("<IHHQ", fatbin, at)
        if magic != 0xBA55ED50:
            at += 8
            continue
        entry, at = at + header, at + header + size
        while entry < at:
            kind, _, entry_header, entry_size, architecture = struct.unpack_from("<HHIQ12xI", fatbin, entry)
            yield {1: "ptx", 2: "elf"}[kind], architecture
            entry += entry_header + entry_size


@pytest.mark.slow
class TestCudaLibrary:
    """What nvcc and the linker made, without a GPU."""

    pytestmark = needs_nvcc

    def test_the_binary_has_the_requested_architectures(self, cuda_library: Path) -> None:
        code = list(device_code(sections(cuda_library.read_bytes())[".nv_fatbin"]))
        assert sorted(code) == [*(("elf", a) for a in ARCHITECTURES), ("ptx", ARCHITECTURES[-1])]

    def test_the_device_code_is_small(self, cuda_library: Path) -> None:
        # 567 kB of two architectures, compressed. The code around it is not optimised here, which says nothing of an installation.
        assert len(sections(cuda_library.read_bytes())[".nv_fatbin"]) < 650_000

    @pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
    def test_needs_nothing_but_torch_and_the_system(self, cuda_library: Path) -> None:
        """Symbols of glibc and libstdc++ carry a version; those without are torch's stable C interface: no CUDA library at run time."""
        lines = output("nm", "-D", "--undefined-only", cuda_library).splitlines()
        names = [line.split()[-1] for line in lines if line.split()[0] == "U"]
        unversioned = [name for name in names if "@" not in name]
        assert [name for name in unversioned if not name.startswith(("aoti_torch_", "torch_"))] == []
        assert any(name.startswith("aoti_torch_") for name in unversioned)
        versions = {name.partition("@")[2].split("_")[0] for name in names if "@" in name}
        assert versions <= {"GLIBC", "GLIBCXX", "CXXABI", "GCC"}

    def test_the_cuda_part_does_no_harm_beside_a_torch_without_cuda(self, cuda_library: Path, installed: Path, tmp_path: Path) -> None:
        """Every symbol is found, and both operators are registered for CUDA."""
        code = f"""
import ctypes, os, torch
from proscale.ops import native
ctypes.CDLL({str(cuda_library)!r}, os.RTLD_NOW)
for name in ("proscale::ms_deform_attn", "proscale::ms_deform_attn_backward"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
"""
        if torch.cuda.is_available():
            pytest.skip("with a GPU, importing the package loads its own")
        others = str(Path(torch.__file__).parents[1])
        subprocess.run([installed, "-c", code], env=os.environ | {"PYTHONPATH": others}, cwd=tmp_path, check=True)
