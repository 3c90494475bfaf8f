"""Noticing that a file has changed."""

import os
from pathlib import Path

Stamp = tuple[int, int, int, int] | None


def stamp(path: Path) -> Stamp:
    """What changes when a file does, and None where there is none. Secrets of Kubernetes are links that are turned over to new files."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
