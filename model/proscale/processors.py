"""How many processors this process may use, and how its threads wait for each other. No torch.

The machine's count is not it: containers get a share of the processor's time (a quota), and a process may be bound to some processors.
Threads beyond that share wait for one that has been put to sleep, and each parallel loop takes as long as its slowest thread.
"""

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What a user may have said about waiting threads: libgomp's variables, and that of LLVM's and Intel's OpenMP."""

SPINS = 1000
"""Turns of libgomp's waiting loop, some twenty microseconds, before a thread sleeps.

libgomp takes as many itself where it has more threads than processors; it does not see the threads of other processes.
"""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processors:
    """What this process may use."""

    machine: int
    """Processors of the machine."""
    allowed: int
    """Those that the process may run on (its affinity)."""
    quota: float | None
    """Processors' worth of time that its control groups lend it; None: no limit."""

    @property
    def threads(self) -> int:
        """Threads that can all run at the same time: at least 1. A part of a processor is left alone, since its thread would stop all."""
        return max(1, min(self.allowed, int(self.quota) if self.quota is not None else self.allowed))

    def in_words(self) -> str:
        """For `proscale doctor` and warnings."""
        limits = []
        if self.allowed < self.machine:
            limits.append(f"bound to {self.allowed}")
        if self.quota is not None:
            limits.append(f"a quota of {self.quota:g}")
        return f"{self.machine} processors" + (f", {' and '.join(limits)}" if limits else "")


def processors(root: Path = Path("/")) -> Processors:
    """What the system says. Args: root: where `proc` and `sys` lie."""
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quotas = list(_quotas(root))
    return Processors(machine, allowed, min(quotas) if quotas else None)


def _quotas(root: Path) -> Iterator[float]:
    """The limits of the process's control groups and of all above them, in processors. Version 2 and version 1."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            bases = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            bases = [mount / "cpu", mount / controllers]
        else:
            continue
        for base in bases:
            # In a container the path may be the host's, and the group itself is mounted at the top.
            group = base / path.lstrip("/")
            for folder in {group, *group.parents} if group.is_dir() else {base}:
                if folder == base or base in folder.parents:
                    yield from _limit(folder)


def _limit(group: Path) -> Iterator[float]:
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        if limit not in ("max", "-1"):
            yield int(limit) / int(period)
    except (OSError, ValueError):
        return


def choose_threads(asked: int, found: Processors) -> int:
    """Threads of the network: those asked for, but no more than can run at the same time; a warning says so."""
    if asked > found.threads:
        _LOG.warning("%d threads would wait for each other (%s): %d computes faster", asked, found.in_words(), found.threads)
    return min(asked, found.threads)


def configure_openmp(environment: MutableMapping[str, str] | None = None, found: Processors | None = None) -> None:
    """Have OpenMP's threads sleep soon when they wait, and be no more than a quota allows, unless the environment says otherwise already.

    By default they spin for milliseconds. Where another process wants the processor, a thread then spins for one that is not running, and
    keeps it from running: two threads become many times slower than one (docs/performance.md). Call it before torch is imported: OpenMP
    reads the environment once. Programs that import the package decide themselves.
    """
    variables = os.environ if environment is None else environment
    if not any(variables.get(name) for name in WAITING):
        variables["GOMP_SPINCOUNT"] = str(SPINS)
        variables["KMP_BLOCKTIME"] = "0"
    found = processors() if found is None else found
    if found.threads < found.allowed and not variables.get("OMP_NUM_THREADS"):
        variables["OMP_NUM_THREADS"] = str(found.threads)


def waiting_in_words(environment: Mapping[str, str] | None = None) -> str:
    """How OpenMP's threads wait, for `proscale doctor`."""
    variables = os.environ if environment is None else environment
    said = [f"{name}={variables[name]}" for name in WAITING if variables.get(name)]
    return ", ".join(said) or "as OpenMP chooses"
