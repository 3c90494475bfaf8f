"""How many pictures are computed together: learned from what batches gain on this machine. No torch.

A batch of one size is worth its memory and its wait only where it is faster per picture: on GPUs, and on CPUs where pictures side by side
(`proscale.lanes`) beat one on all threads. So batches begin with one picture, and twice as many are tried a few times whenever so many
wait. They are kept where a picture then takes less time by `LEAST_GAIN`, and tried again after a while, because what else a machine does
changes.
"""

from collections import defaultdict, deque
from statistics import median

LEAST_GAIN = 0.05
"""Share of a picture's time that a doubled batch must save."""
_TRIES = 3
"""Batches of a size that are measured before it is judged."""
_TRIAL_BATCHES = 24
"""Batches in which a size may be tried: a worker that has chosen its own never forms larger ones."""
_RETRY_AFTER = 200
"""Batches after which a size that won nothing is tried again."""
_KEPT = 9
"""Newest measurements of a size that count."""

Size = tuple[int, int]


class BatchSizes:
    """One thread at a time."""

    def __init__(self, most: int) -> None:
        """Args: most: pictures that are ever computed together."""
        self._most = most
        self._seconds: defaultdict[tuple[Size, int], deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        """By padded size and batch size, a power of two: seconds per picture."""
        self._chosen: defaultdict[Size, int] = defaultdict(lambda: 1)
        self._since_trial: defaultdict[Size, int] = defaultdict(int)

    def limit(self, padded: Size) -> int:
        """Pictures of this padded size (height, width) that may be computed together now, those of a trial included."""
        chosen = self._chosen[padded]
        doubled = 2 * chosen
        known, tried = self._seconds[padded, chosen], self._seconds[padded, doubled]
        trial = doubled <= self._most and len(known) >= _TRIES and len(tried) < _TRIES and self._since_trial[padded] < _TRIAL_BATCHES
        return doubled if trial else min(chosen, self._most)

    def measured(self, padded: Size, pictures: int, seconds: float) -> None:
        """Take in how long a batch took."""
        size = 1 << (pictures.bit_length() - 1)
        self._seconds[padded, size].append(seconds / pictures)
        chosen = self._chosen[padded]
        self._since_trial[padded] += 1
        if size > chosen and len(self._seconds[padded, size]) >= _TRIES and self._gains(padded, chosen, size):
            self._chosen[padded] = size
            self._since_trial[padded] = 0
        elif chosen > 1 and size == chosen // 2 and not self._gains(padded, size, chosen):
            self._chosen[padded] = size
        elif self._since_trial[padded] >= _RETRY_AFTER:
            self._since_trial[padded] = 0
            self._seconds[padded, 2 * self._chosen[padded]].clear()

    def _gains(self, padded: Size, small: int, large: int) -> bool:
        known = self._seconds[padded, small] and self._seconds[padded, large]
        return bool(known) and median(self._seconds[padded, large]) <= (1 - LEAST_GAIN) * median(self._seconds[padded, small])
