"""How the C library hands out memory: a network frees hundreds of megabytes between layers and asks for them again at once."""

import ctypes
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Of glibc's malloc.h."""
KEPT_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process keep the memory it frees, for the next layer and the next picture, instead of giving it back to the system.

    By default glibc maps every large tensor anew, and the system fills each of its pages with zeros when it is first written
    (docs/performance.md has what that costs). Once set, the process stays as large as its largest batch made it. Call it in a process
    of one's own (a library should leave the choice to its program), before the first large tensor and before the thread that computes
    is started: a thread that has allocated keeps its own arena, to which this does not apply.

    Returns:
        whether it took effect; False on a C library other than glibc.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    # Without maps of their own, tensors of over 64 MiB need the main arena: it alone can grow so far, so all threads share it.
    return all(mallopt(option, value) == 1 for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_ARENA_MAX, 1)))


def give_back_freed_memory() -> bool:
    """Give what is free now back to the system, once, though this process keeps what it frees: after a model was unloaded.

    The next large tensors are mapped anew, which costs them some milliseconds. Others that allocate meanwhile wait for it.

    Returns:
        whether anything was given back; False on a C library other than glibc.
    """
    trim = _of_glibc("malloc_trim")
    return trim is not None and bool(trim(ctypes.c_size_t(0)))


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
