"""Processes of a bulk job on this machine, for `bulk.py`: the memory of its actors, and what it takes of processors."""

import os
import statistics
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GROWTH = 1.1
"""An actor whose memory late in its life is above so many times what it was early is said to grow."""


def actors() -> dict[int, float]:
    """Pids of actors that run now -> resident memory of their own in MiB: libraries and Ray's store are shared."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if (folder / "cmdline").read_bytes().startswith((b"ray::MapWorker", b"ray::_MapWorker")):
                resident, shared = map(int, (folder / "statm").read_text().split()[1:3])
                found[int(folder.name)] = (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            continue
    return found


@contextmanager
def sampled_memory() -> Iterator[dict[int, list[float]]]:
    """Resident MiB of every actor, twice a second, while the context lasts."""
    samples: defaultdict[int, list[float]] = defaultdict(list)
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.5):
            for pid, size in actors().items():
                samples[pid].append(size)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def flatness(memory: dict[int, list[float]]) -> dict[str, Any]:
    """Peak memory of actors that lived long, and how it grew between their second and their last quarter."""
    long = [each for each in memory.values() if len(each) >= 60]  # so that loading the model lies in the first quarter
    grown = [statistics.median(each[-len(each) // 4 :]) / statistics.median(each[len(each) // 4 : len(each) // 2]) for each in long]
    return {
        "watched": len(memory),
        "lived_long": len(long),
        "peak_mebibytes": [round(max(each)) for each in long],
        "last_quarter_over_second": [round(each, 3) for each in grown],
    }


def processor_seconds(root: int) -> float:
    """Of a process and all that it started, as far as they run now or were waited for."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)], seconds[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    family, count = {root}, 0
    while len(family) > count:
        count = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return sum(seconds.get(pid, 0.0) for pid in family)
