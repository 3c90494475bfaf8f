"""Compiles the attention operator while the package is installed; everything else about the package stands in pyproject.toml.

Needs torch's headers, so it works in the environment that holds torch (`pip install --no-build-isolation`). Where something is missing,
the package installs without the operator and its reference form in pure torch runs; `proscale doctor` then says why.

Environment: CXX, the compiler (g++). NVCC, the CUDA compiler (found on PATH or in CUDA_HOME). MS_DEFORM_ATTN_CUDA=1 builds the CUDA part,
0 leaves it out; by default it is built when there is an nvcc and torch can use GPUs. MS_DEFORM_ATTN_ARCHS, default "80;90;100;120".
"""

import contextlib
import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("model/proscale/ops/csrc")
TENSOR_SOURCES = ("attention_op", "cpu_op", "masks_op", "rle_op", "quantise_op", "windows_op")
# Each built once per instruction set.
KERNEL_SOURCES = (
    "attention_kernel",
    "cpu_kernel",
    "masks_panoptic",
    "masks_instance",
    "masks_semantic",
    "quantise_kernel",
    "windows_kernel",
)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # one binary for torch 2.10 and later
# GCC warns about its own intrinsics headers, and that passing vectors between functions depends on the instruction set.
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fwrapv", "-Wall", "-Wextra", "-Wno-psabi"]
FLAGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {
    "plain": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": AVX512,
}
# Products of bfloats pay in attention alone.
ALSO = {("attention_kernel", "avx512bf16"): [*AVX512, "-mavx512bf16"]}


class FailedError(Exception):
    """A part could not be built; the message says what is missing."""


def run(*command: str | Path) -> str:
    try:
        return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise FailedError(f"no compiler {command[0]} at installation") from error
    except subprocess.CalledProcessError as error:
        raise FailedError(f"{command[0]} failed: {error.stderr.strip()[-2000:]}") from error


def torch_folder() -> Path:
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise FailedError("torch was not there at installation (install it first, then this package with --no-build-isolation)")
    return Path(spec.submodule_search_locations[0])


def link_flags(torch: Path) -> list[str]:
    # torch is imported before the library is loaded, so its own libraries need no path here.
    return ["-shared", "-s", f"-L{torch / 'lib'}", "-ltorch_cpu"]


def build_cpu(target: Path, work: Path) -> None:
    torch = torch_folder()
    compiler = os.environ.get("CXX", "g++")
    x86 = platform.machine() in ("x86_64", "AMD64")
    common = [*FLAGS, *(["-DPROSCALE_X86"] if x86 else [])]
    builds = {(source, name): flags for source in KERNEL_SOURCES for name, flags in INSTRUCTION_SETS.items()} | ALSO
    jobs = {}
    for source in TENSOR_SOURCES:
        jobs[work / f"{source}.o"] = [compiler, *common, STABLE_ABI, "-isystem", torch / "include", "-c", SOURCES / f"{source}.cpp"]
    for (source, name), flags in builds.items():
        if x86 or name == "plain":
            jobs[work / f"{source}_{name}.o"] = [compiler, *common, f"-DPROSCALE_SET={name}", *flags, "-c", SOURCES / f"{source}.cpp"]
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda job: run(*job[1], "-o", job[0]), jobs.items()))
    run(compiler, *jobs, "-o", target, *link_flags(torch))


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return os.environ.get("NVCC") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def wants_cuda() -> bool:
    asked = os.environ.get("MS_DEFORM_ATTN_CUDA", "")
    if asked:
        return asked != "0"
    return find_nvcc() is not None and (torch_folder() / "lib" / "libtorch_cuda.so").exists()


def build_cuda(target: Path, work: Path) -> None:
    nvcc, torch = find_nvcc(), torch_folder()
    if nvcc is None:
        raise FailedError("no nvcc at installation")
    release = re.search(r"release (\d+)\.(\d+)", run(nvcc, "--version"))
    recent = release is not None and (int(release[1]), int(release[2])) >= (12, 8)  # knows Blackwell, and how to compress well
    archs = os.environ.get("MS_DEFORM_ATTN_ARCHS", "80;90;100;120" if recent else "80;90").split(";")
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")  # PTX, for what comes later
    host = ["-Xcompiler=-fPIC,-fvisibility=hidden", "-ccbin", os.environ.get("CXX", "g++")]
    flags = ["-std=c++20", "-O3", "-t2", *(["--compress-mode=size"] if recent else []), *host, STABLE_ABI]
    run(nvcc, *flags, *codes, "-isystem", torch / "include", "-c", SOURCES / "cuda_op.cu", "-o", work / "cuda_op.o")
    link = ["-cudart=static", "-nodlink", "-Xlinker=-s", "-shared", f"-L{torch / 'lib'}"]  # no device code of other files to link with
    run(nvcc, *link, work / "cuda_op.o", "-o", target, "-ltorch_cpu", "-ldl")


class BuildOperator(build_ext):
    """Shared libraries that torch loads, not Python modules: no Python in their names, and none linked."""

    def get_ext_filename(self, fullname: str) -> str:
        """`proscale/ops/_native.so`."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Build one library; on failure leave a note and go on."""
        target = Path(self.get_ext_fullpath(ext.name))
        work = Path(self.build_temp) / target.stem
        for folder in (target.parent, work):
            folder.mkdir(parents=True, exist_ok=True)
        # In an editable installation the package is the source tree.
        note_folders = {target.parent, Path("model/proscale/ops")} if self.editable_mode else {target.parent}
        try:
            (build_cuda if ext.name.endswith("cuda") else build_cpu)(target, work)
            note = ""
        except FailedError as failure:
            note = str(failure)
            self.warn(f"{target.name} was not built, the pure-torch form will run in its place: {failure}")
        for folder in note_folders:
            path = folder / f"{target.stem}.txt"
            if note:
                path.write_text(note + "\n")
            else:
                path.unlink(missing_ok=True)


def extensions() -> list[Extension]:
    sources = [str(path) for path in SOURCES.glob("*")]
    names = ["proscale.ops._native"]
    with contextlib.suppress(FailedError):
        if wants_cuda():
            names.append("proscale.ops._native_cuda")
    return [Extension(name, sources=[], depends=sources, optional=True) for name in names]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildOperator})
