"""Memory that is kept."""

import subprocess
import sys

import pytest

PROBE = """
import resource, sys, threading
import torch
from proscale.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
def work():  # a thread of its own, as the service's engine has
    for _ in range(40):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        large = torch.ones(30_000_000)
        middle = torch.ones(9_000_000)
        del large, middle
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(sorted(faults[20:])[10])  # until then the heap has found its size, which takes it 4 rounds or 10, as chance places what is in it
"""


def faults_of_a_late_round(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_kept_memory_is_not_mapped_anew() -> None:
    kept = faults_of_a_late_round("keep")
    assert kept < 39_000_000 * 4 / 4096 / 100  # of the pages touched, one in a hundred
    assert kept < faults_of_a_late_round("leave")
