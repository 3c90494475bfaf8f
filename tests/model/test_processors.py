"""Threads by what the process may use, not by what the machine has."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proscale.processors import Processors, choose_threads, configure_openmp, processors, waiting_in_words


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root with `proc/self/cgroup` and files under `sys/fs/cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),  # a container that sees its own group at the top, version 2
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/pods/one\n", {"pods/one/cpu.max": "max 100000", "pods/cpu.max": "400000 100000"}, 4.0),  # the group above limits
        ("0::/pods/one\n", {"pods/one/cpu.max": "50000 100000", "pods/cpu.max": "400000 100000"}, 0.5),
        ("4:cpu,cpuacct:/docker/x\n", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),  # the host's path
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_a_quota_is_found(groups: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    found = processors(system(tmp_path, groups, files))
    assert found.quota == quota
    assert found.machine == os.cpu_count()


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert processors(tmp_path).quota is None


@pytest.mark.parametrize(
    ("found", "threads", "words"),
    [
        (Processors(8, 8, None), 8, "8 processors"),
        (Processors(8, 4, None), 4, "8 processors, bound to 4"),
        (Processors(8, 8, 1.5), 1, "8 processors, a quota of 1.5"),
        (Processors(8, 2, 3.0), 2, "8 processors, bound to 2 and a quota of 3"),
        (Processors(8, 8, 0.25), 1, "8 processors, a quota of 0.25"),
    ],
)
def test_threads_are_those_that_run_at_the_same_time(found: Processors, threads: int, words: str, caplog: pytest.LogCaptureFixture) -> None:
    assert (found.threads, found.in_words()) == (threads, words)
    with caplog.at_level(logging.WARNING):
        assert choose_threads(threads, found) == threads
        assert not caplog.records
        assert choose_threads(threads + 1, found) == threads
    assert words in caplog.text


def test_openmp_threads_sleep_soon_and_stay_within_the_quota_unless_told_otherwise() -> None:
    environment: dict[str, str] = {}
    configure_openmp(environment, Processors(8, 8, 2.5))
    assert environment == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0", "OMP_NUM_THREADS": "2"}
    assert waiting_in_words(environment) == "GOMP_SPINCOUNT=1000, KMP_BLOCKTIME=0"
    environment = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "3"}
    configure_openmp(environment, Processors(8, 8, 2.5))
    assert environment == {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "3"}
    environment = {}
    configure_openmp(environment, Processors(8, 4, None))
    assert "OMP_NUM_THREADS" not in environment


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_doctor_says_what_a_bound_process_may_use() -> None:
    """A real process, bound to one processor before it starts."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from proscale.cli import main; main()"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    run = subprocess.run([sys.executable, "-c", code, "doctor"], env=variables, capture_output=True, text=True, check=True)
    lines = {line.split("  ")[0]: line for line in run.stdout.splitlines()}
    assert "  1 of " in lines["threads"]
    if (os.cpu_count() or 1) > 1:
        assert "bound to 1" in lines["threads"]
    assert "GOMP_SPINCOUNT=1000" in lines["waiting threads"]
