"""What `csrc/simd.h` promises of its functions, for every instruction set that this machine runs and for arm64."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import proscale.ops
from proscale.ops import native

SOURCES = Path(proscale.ops.__file__).parent / "csrc"
DRIVER = Path(__file__).parent / "emulation/simd_driver.cpp"
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=fast", "-fwrapv", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
X86 = {
    "plain": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-Wno-maybe-uninitialized"],
}
pytestmark = pytest.mark.slow  # compiles

CROSS_COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

Function = list[str]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.processor) for name in X86] + ["arm64"])
def exponential(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Function:
    """The command that reads floats and writes e^x of each."""
    name, program = request.param, tmp_path_factory.mktemp("simd") / "driver"
    sources = [f"-I{SOURCES}", str(DRIVER), "-o", str(program)]
    if name == "arm64":
        if CROSS_COMPILER is None or EMULATOR is None:
            pytest.skip("no cross compiler or emulator (apt install g++-aarch64-linux-gnu qemu-user-static)")
        subprocess.run([CROSS_COMPILER, *FLAGS, "-DPROSCALE_SET=plain", "-static", *sources], check=True)
        return [EMULATOR, str(program)]
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if native.STATUS.cpu not in list(X86)[list(X86).index(name) :]:
        pytest.skip(f"this machine does not run {name}")
    subprocess.run(["g++", *FLAGS, *X86[name], "-DPROSCALE_X86", f"-DPROSCALE_SET={name}", *sources], check=True)
    return [str(program)]


def apply(function: Function, x: NDArray[np.float32]) -> NDArray[np.float32]:
    raw = subprocess.run(function, input=x.tobytes(), stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(raw, np.float32)


def test_the_exponential_is_within_its_error_in_its_range(exponential: Function) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.uniform(-87, 87, 200_000), rng.normal(0, 1, 100_000), np.linspace(-87, 87, 100_001), rng.uniform(-1e-3, 1e-3, 10_000)]
    x = np.concatenate(parts).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    assert (np.abs(apply(exponential, x) - want) / want).max() < 2e-7


def test_the_exponential_beyond_its_range_stays_at_its_ends(exponential: Function) -> None:
    x = np.array([87, 88, 1e30, np.inf, np.nan, -87, -88, -1e30, -np.inf], np.float32)
    got = apply(exponential, x)
    assert (got[:5] == got[0]).all()
    assert (got[5:] == got[5]).all()
    assert np.isfinite(got).all()
    assert (got > 0).all()
