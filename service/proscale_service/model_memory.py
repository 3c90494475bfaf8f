"""Whether one more model fits into memory: what it needs, estimated from its files, against what the machine and the cgroup leave."""

from pathlib import Path

from proscale_service.errors import NotEnoughMemory

MIB = 1024 * 1024
WEIGHTS = 2.0
"""Bytes per byte of the files: weights are converted and packed before the file's copy is let go."""
WORKING, MOST_WORKING, BASE = 4.0, 600 * MIB, 64 * MIB
"""What a network takes while it computes, by its files and at most, and what the smallest takes. With these the estimate is above what a
ResNet-50 and a Swin-T Mask2Former of 133 classes took for pictures of 1200x1600 (922 and 761 MiB; the estimates are 1000 and 1026)."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Of version 2 and of version 1: limit, use, and what of the use can be given back."""


def needed_bytes(folder: Path) -> int:
    """What a model of this folder is expected to need, in bytes."""
    weights = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return round(WEIGHTS * weights + min(MOST_WORKING, WORKING * weights)) + BASE


def available_bytes(root: Path = Path("/")) -> int | None:
    """What may still be allocated: the least of what the machine and the control group leave. None where neither says it."""
    lines = _text(root / "proc/meminfo").splitlines()
    left = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for names in _CGROUPS:
        limit, used, stat = (_text(root / name.lstrip("/")) for name in names)
        if limit.strip().isdigit() and used.strip().isdigit():
            # Files that were read count as used, and go when memory is short.
            files = next(
                (int(line.split()[1]) for line in stat.splitlines() if line.startswith(("inactive_file ", "total_inactive_file "))), 0
            )
            left.append(int(limit) - int(used) + files)
    return min(left, default=None)


def require_memory(folder: Path | None) -> None:
    """Raise NotEnoughMemory when a model of this folder would not fit.

    A folder that is none is the loader's to name. Args: folder: None: the model of the package, which is small.
    """
    if folder is None or not folder.is_dir():
        return
    needed, available = needed_bytes(folder), available_bytes()
    if available is not None and needed > available:
        raise NotEnoughMemory(
            f"the model in {folder} needs about {needed // MIB} MiB, and {max(0, available) // MIB} MiB are left; unload another model, or "
            "give the service more memory"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
