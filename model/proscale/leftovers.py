"""What a Python process of Triton's leaves when it dies or hangs: the process itself, and its shared memory.

When a model's process dies, Triton never lets go of the request that found it dead, and so keeps the dead instance, with its region of
shared memory, until it ends itself; a process that was stopped is not even ended. The process that takes over removes both. Nobody reads
a dead instance's region any more, so that its memory can be given back though Triton still maps it.

When Triton itself is killed, its regions outlive it, on Kubernetes as long as the pod.
"""

import ctypes
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)
_PROC, _SHARED_MEMORY = Path("/proc"), Path("/dev/shm")
_STUB = "triton_python_backend_stub"
_DEFAULT_PREFIX = "triton_python_backend_shm_region_"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
INTERVAL_S = 5.0
GRACE_S = 90.0
"""After so long beside its successor a process has answered what it had: Triton keeps no request for longer than 60 seconds."""
_YOUNG_S = 15.0
"""A region so young may belong to a process that is being started."""
KINDS = ("process", "shared_memory")


@dataclass(frozen=True)
class Stub:
    """A process that runs an instance of a model, as its command line has it."""

    pid: int
    model_file: str
    region: str
    """Its name in /dev/shm."""
    server: int
    """Process id of its Triton."""
    instance: str
    started: int
    """In ticks since the machine's start."""
    state: str
    """`T` when it was stopped, `Z` when it is dead and nobody noticed."""


def own_stub() -> Stub | None:
    """This process, when it is one of Triton's."""
    return _stub(os.getpid())


def stubs(server: int) -> Iterator[Stub]:
    """The processes of a Triton. Args: server: its process id."""
    for folder in _PROC.iterdir():
        stub = _stub(int(folder.name)) if folder.name.isdecimal() else None
        if stub is not None and stub.server == server:
            yield stub


def remove_processes(own: Stub, serving_s: float) -> int:
    """End processes that ran the same instance before this one and hang.

    Args:
        serving_s: how long this one has served.

    Returns:
        how many.
    """
    ended = 0
    for other in stubs(own.server):
        same = (other.model_file, other.instance) == (own.model_file, own.instance)
        if same and other.started < own.started and (other.state == "T" or serving_s >= GRACE_S):
            try:
                os.kill(other.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            ended += 1
            _LOG.warning("ended a process that hung", extra={"fields": {"instance": own.instance, "pid": other.pid}})
    return ended


def remove_regions(own: Stub) -> int:
    """Give back the memory of regions that Triton maps and whose processes are dead. Returns how many."""
    prefix = re.sub(f"{_UUID}$", "", own.region)
    used = {stub.region for stub in stubs(own.server)}
    removed = 0
    for name in _mapped(own.server):
        region = _SHARED_MEMORY / name
        if name.startswith(prefix) and name not in used and re.fullmatch(_UUID, name.removeprefix(prefix)) and _age(region) > _YOUNG_S:
            _give_back(region)
            removed += 1
    if removed:
        _LOG.warning("gave back shared memory of dead processes", extra={"fields": {"regions": removed}})
    return removed


def remove_orphans(prefix: str = _DEFAULT_PREFIX) -> int:
    """Remove this user's regions that no process maps: those of servers that were killed. Returns how many."""
    regions = [path for path in _SHARED_MEMORY.glob(f"{prefix}*") if re.fullmatch(_UUID, path.name.removeprefix(prefix))]
    regions = [path for path in regions if path.stat().st_uid == os.getuid() and _age(path) > _YOUNG_S]
    if not regions:
        return 0
    mapped = {name for folder in _PROC.iterdir() if folder.name.isdecimal() for name in _mapped(int(folder.name))}
    orphans = [path for path in regions if path.name not in mapped]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)


def watch(count: Callable[[str, int], None]) -> None:
    """Clean up behind the processes before this one, every few seconds, on a thread of its own.

    Args:
        count: called with one of `KINDS` and how many were removed.
    """
    own = own_stub()
    if own is None:
        return

    def run() -> None:
        began = time.monotonic()
        while True:
            try:
                count("process", remove_processes(own, time.monotonic() - began))
                count("shared_memory", remove_regions(own))
            except OSError:
                _LOG.exception("leftovers could not be looked for")
            time.sleep(INTERVAL_S)

    threading.Thread(target=run, name="leftovers", daemon=True).start()


def _stub(pid: int) -> Stub | None:
    """None when the process is not one of Triton's, or has ended."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        # The name in parentheses may hold anything; the fields after it do not.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        if Path(words[0]).name != _STUB:
            return None
        return Stub(pid, words[1], words[2].lstrip("/"), int(words[5]), words[8], int(fields[19]), fields[0])
    except (OSError, IndexError, ValueError):
        return None


def _mapped(pid: int) -> set[str]:
    """Names of the regions in /dev/shm that a process maps; empty where that may not be asked."""
    try:
        lines = (_PROC / str(pid) / "maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.split(f"{_SHARED_MEMORY}/", 1)[1] for line in lines if f"{_SHARED_MEMORY}/" in line and not line.endswith("(deleted)")}


def _age(region: Path) -> float:
    """Seconds since it was made or last resized; 0 when it is gone."""
    try:
        return max(0.0, time.time() - region.stat().st_mtime)
    except OSError:
        return 0.0


def _give_back(region: Path) -> None:
    """Remove it, and free its pages: the name alone would leave them to whoever maps it."""
    try:
        descriptor = os.open(region, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(descriptor).st_size
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)):
            raise OSError(ctypes.get_errno(), f"the memory of {region} could not be given back")
    finally:
        os.close(descriptor)
    region.unlink(missing_ok=True)
