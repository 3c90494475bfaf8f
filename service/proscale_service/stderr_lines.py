"""Everything that anybody writes to the process's standard error, line by line: libtiff, gRPC and other C libraries know no loggers."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

MAX_LINE = 65536
"""Bytes of one line; longer ones are cut into several."""
_DESCRIPTOR = 2
_PATIENCE_S = 1.0


def divert(take: Callable[[str], None]) -> TextIO:
    """From now on, give every line that is written to standard error to `take`, on a thread of its own.

    At the end of the process the diversion ends, after what was written has been taken. What a crash of the process says at its very last
    can be lost.

    Args:
        take: must not write to standard error itself, but to what is returned.

    Returns:
        the real standard error, for text.
    """
    sys.stderr.flush()
    real = os.fdopen(os.dup(_DESCRIPTOR), "w", buffering=1, errors="backslashreplace")
    source, sink = os.pipe()
    os.dup2(sink, _DESCRIPTOR)
    os.close(sink)
    thread = threading.Thread(target=_read, args=(source, take), name="stderr", daemon=True)
    thread.start()

    def end() -> None:
        sys.stderr.flush()
        os.dup2(real.fileno(), _DESCRIPTOR)  # closes the only end that writes, unless child processes have it too
        thread.join(_PATIENCE_S)

    atexit.register(end)
    return real


def _read(source: int, take: Callable[[str], None]) -> None:
    rest = b""
    while chunk := os.read(source, MAX_LINE):
        *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(rest) >= MAX_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _give(line, take)
    _give(rest, take)
    os.close(source)


def _give(line: bytes, take: Callable[[str], None]) -> None:
    if text := line.decode(errors="backslashreplace").strip():
        take(text)
