"""A campaign: many attempts against one server, and whether it is as good as new afterwards."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .attempts import Attempt, attempt, send

AT_ONCE = 8
FAULTS = {500, 501, 502, 505, 507, "lost", "silent"}


@dataclass
class Result:
    """What a campaign found."""

    counts: Counter[int | str] = field(default_factory=Counter)
    wrong: list[tuple[int, int | str, bytes]] = field(default_factory=list)
    """Number of the attempt (with the seed it can be had again), what became of it, and its first bytes."""


def nth(seed: int, number: int) -> Attempt:
    """The attempt of this number."""
    return attempt(random.Random(f"{seed}/{number}"))


def run(url: str, seed: int, numbers: Iterable[int], on_done: Callable[[], None] = lambda: None) -> Result:
    """Send the attempts of these numbers, several at once."""
    result = Result()

    def one(number: int) -> None:
        tried = nth(seed, number)
        what = send(url, tried)
        result.counts[what] += 1
        if what in FAULTS:
            result.wrong.append((number, what, tried.data[:300]))
        on_done()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, numbers))
    return result


def descriptors(pid: int) -> int:
    """Open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """Threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def files_below(folder: Path) -> list[Path]:
    """What lies in a folder, however deep."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def settles(value: Callable[[], int], most: int, seconds: float = 30.0) -> int:
    """The value once it is at most `most`, or after so many seconds."""
    end = time.monotonic() + seconds
    while (now := value()) > most and time.monotonic() < end:
        time.sleep(0.1)
    return now
