"""The check behind `make bench-check`: it fails where a path that is chosen by processor is slower than what it is chosen over."""

import subprocess
import sys
from pathlib import Path

import pytest

from proscale.ops import native

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import dispatch
times = {"operator": {"plain": 3.0, "avx2": float(sys.argv[2]), "classic": 4.0}, "linear": {"chosen": 1.0, "torch": float(sys.argv[3])}}
dispatch.instruction_sets = lambda: ["plain", "avx2"]
dispatch.measure = lambda rounds, tolerance: times
sys.argv = ["dispatch.py"]
dispatch.main()
"""

pytestmark = pytest.mark.skipif(native.STATUS.cpu is None, reason=f"the operator is not compiled: {native.STATUS.cpu_reason}")


@pytest.mark.parametrize(
    ("avx2", "torch", "slower"),
    [
        (2.0, 1.5, []),
        (3.1, 1.0, []),  # within what rounds differ by
        (3.5, 1.0, ["operator: avx2 is 0.86 times as fast as plain"]),
        (5.0, 1.0, ["operator: avx2 is 0.6 times as fast as plain", "operator: avx2 is 0.8 times as fast as classic"]),
        (2.0, 0.5, ["linear: chosen is 0.5 times as fast as torch"]),
    ],
)
def test_a_slower_path_is_named_and_fails(avx2: float, torch: float, slower: list[str]) -> None:
    command = [sys.executable, "-c", CODE, str(BENCHMARKS), str(avx2), str(torch)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == (1 if slower else 0), run.stderr
    assert [line.removeprefix("SLOWER: ") for line in run.stdout.splitlines() if line.startswith("SLOWER")] == slower
    assert run.stdout.splitlines()[-1] == f"{4 - len(slower)} of 4 paths hold"


@pytest.mark.slow
def test_every_path_of_this_machine_is_measured(tmp_path: Path) -> None:
    """One round with a tolerance that no noise exceeds: the workers run, and every build is compared with the one below."""
    out = tmp_path / "dispatch.json"
    command = [sys.executable, str(BENCHMARKS / "dispatch.py"), "--rounds", "1", "--tolerance", "1", "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in run.stdout.splitlines() if " plain " in line]
    sets = ["plain", "avx2", "avx512"]
    for kernels in sets[: sets.index(native.STATUS.cpu or "plain") + 1]:
        assert sum(f"{kernels} " in row for row in rows) >= 17
    assert out.exists()
