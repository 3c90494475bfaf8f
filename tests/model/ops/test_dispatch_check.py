"""The check behind `make bench-check`: it fails where a path that is chosen by processor is slower than what it is chosen over."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from proscale.ops import native

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
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
def test_a_slower_path_is_named_and_fails(
    avx2: float, torch: float, slower: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"operator": {"plain": 3.0, "avx2": avx2, "classic": 4.0}, "linear": {"chosen": 1.0, "torch": torch}}
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    dispatch = importlib.import_module("dispatch")
    monkeypatch.setattr(dispatch, "instruction_sets", lambda: ["plain", "avx2"])
    monkeypatch.setattr(dispatch, "measure", lambda rounds, tolerance: times)
    monkeypatch.setattr(sys, "argv", ["dispatch.py"])
    failed = 0
    try:
        dispatch.main()
    except SystemExit as done:
        failed = int(done.code or 0)
    said = capsys.readouterr().out.splitlines()
    assert failed == (1 if slower else 0), said
    assert [line.removeprefix("SLOWER: ") for line in said if line.startswith("SLOWER")] == slower
    assert said[-1] == f"{4 - len(slower)} of 4 paths hold"


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
