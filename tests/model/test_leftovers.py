"""Shared memory and processes that a dead Triton or a hung process left, with real processes and real shared memory."""

import mmap
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proscale import leftovers

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="needs /dev/shm")
STUB = "import sys, time; print('up', flush=True); time.sleep(60)"
OLD = time.time() - 3600


def region(prefix: str) -> Path:
    path = SHM / f"{prefix}{uuid.uuid4()}"
    path.write_bytes(b"x" * 65536)
    os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def prefix() -> Iterator[str]:
    name = f"proscale_leftovers_{uuid.uuid4().hex[:8]}_"
    yield name
    for path in SHM.glob(f"{name}*"):
        path.unlink()


Start = Callable[[str, str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes whose command lines are those of Triton's, as children of this one. Arguments: instance, region."""
    script = tmp_path / "model.py"
    script.write_text(STUB)
    started: list[subprocess.Popen[str]] = []

    def start(instance: str, region: str) -> "subprocess.Popen[str]":
        words = ["triton_python_backend_stub", str(script), region, "1048576", "1048576", str(os.getpid()), "/backends", "336", instance]
        process = subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def found(pid: int) -> leftovers.Stub:
    (stub,) = (stub for stub in leftovers.stubs(os.getpid()) if stub.pid == pid)
    return stub


def test_a_stopped_process_is_ended_and_one_that_still_answers_gets_its_time(start: Start, prefix: str) -> None:
    stopped, answering, other = (
        start("proscale_0_0", f"{prefix}a"),
        start("proscale_0_0", f"{prefix}b"),
        start("proscale_0_1", f"{prefix}c"),
    )
    stopped.send_signal(signal.SIGSTOP)
    other.send_signal(signal.SIGSTOP)
    time.sleep(0.05)  # start times are counted in hundredths of a second
    own = found(start("proscale_0_0", f"{prefix}d").pid)
    assert leftovers.remove_processes(own, serving_s=1.0) == 1
    assert stopped.wait(10) == -signal.SIGKILL
    assert answering.poll() is None
    assert leftovers.remove_processes(own, serving_s=leftovers.GRACE_S) == 1
    assert answering.wait(10) == -signal.SIGKILL
    # Another instance, and itself, are nobody's predecessors.
    assert leftovers.remove_processes(own, serving_s=leftovers.GRACE_S) == 0
    assert other.poll() is None


def test_a_younger_process_is_never_ended(start: Start, prefix: str) -> None:
    own = found(start("proscale_0_0", f"{prefix}a").pid)
    time.sleep(0.05)
    younger = start("proscale_0_0", f"{prefix}b")
    assert leftovers.remove_processes(own, serving_s=leftovers.GRACE_S) == 0
    assert younger.poll() is None


def test_memory_of_dead_processes_is_given_back_though_it_is_mapped(start: Start, prefix: str) -> None:
    dead, used, young = region(prefix), region(prefix), region(prefix)
    foreign = region(f"{prefix}other_")
    os.utime(young)
    maps = []
    for path in (dead, used, young, foreign):  # as Triton, which this process stands for, has mapped them
        with path.open("r+b") as file:
            maps.append(mmap.mmap(file.fileno(), 0))
    own = found(start("proscale_0_0", used.name).pid)
    with dead.open("rb") as file:
        assert leftovers.remove_regions(own) == 1
        assert os.fstat(file.fileno()).st_blocks == 0
    assert [path.exists() for path in (dead, used, young, foreign)] == [False, True, True, True]
    assert (maps[0][0], maps[1][0]) == (0, ord("x"))
    assert leftovers.remove_regions(own) == 0
    for each in maps:
        each.close()


def test_orphans_of_killed_servers_are_removed_and_what_is_mapped_stays(prefix: str) -> None:
    orphan, used = region(prefix), region(prefix)
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert leftovers.remove_orphans(prefix) == 1
    assert [path.exists() for path in (orphan, used)] == [False, True]
    assert leftovers.remove_orphans(f"{prefix}nothing_") == 0


def test_outside_of_triton_nothing_is_removed() -> None:
    assert leftovers.own_stub() is None
    leftovers.watch(lambda kind, number: pytest.fail("nobody to clean up behind"))
