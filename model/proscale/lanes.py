"""Lanes: the pictures of a batch side by side on a CPU, each on a thread of its own with its share of the processors.

One picture on all threads waits for the slowest of them at the end of every layer, and Python's work between layers keeps all but one idle.
Pictures side by side wait for nobody. Whether that is faster is measured, as for every batch: see `batch_sizes`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


def lanes_of(pictures: int, threads: int) -> list[range]:
    """Which pictures, by number, each lane computes one after the other; no more lanes than threads."""
    lanes = max(1, min(pictures, threads))
    return [range(lane, pictures, lanes) for lane in range(lanes)]


class Lanes:
    """Threads that compute side by side. One thread at a time may call it; it holds as many threads as torch used at the first call."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def run(self, compute: Callable[[int], T], pictures: int) -> list[T]:
        """What `compute` returns for each number below `pictures`, in order.

        torch's threads are shared out evenly among the lanes. Every lane ends before this returns.

        Raises:
            whatever `compute` raises, of the first picture that fails.
        """
        threads = torch.get_num_threads()
        dealt = lanes_of(pictures, threads)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, "lane")
        try:
            futures = [self._pool.submit(_lane, compute, numbers, threads // len(dealt)) for numbers in dealt]
            wait(futures)
        finally:
            # A lane's number becomes what threads begin with that torch sees later.
            torch.set_num_threads(threads)
        results = [future.result() for future in futures]
        return [results[number % len(dealt)][number // len(dealt)] for number in range(pictures)]


def _lane(compute: Callable[[int], T], numbers: range, threads: int) -> list[T]:
    torch.set_num_threads(threads)  # of this thread alone
    with torch.inference_mode():
        return [compute(number) for number in numbers]
