"""How long pictures take: learned per padded size and batch size, from what the engine measures."""

from dataclasses import dataclass

from proscale.config import Task
from proscale.results import Plan, Prediction

_ASSUMED_SECONDS_PER_FLOP = 1e-10
"""Before anything was measured: 10 GMAC/s, which two threads of a server's processor reach with small networks."""
_WEIGHT = 0.1
"""Of the newest measurement in a running mean."""
_LEAST_SPREAD = 0.01
"""Of sizes, as a share of their mean: below this they say nothing of how time grows with size."""


@dataclass(frozen=True)
class Work:
    """What decides how long a picture takes."""

    plan: Plan
    output_pixels: int
    """Of the picture as it was sent, which post-processing goes through."""
    tasks: tuple[Task, ...]
    windows: int = 1
    """How many of such pictures it stands for: the windows of a large one. Plan and pixels are those of one."""

    @property
    def all_pixels(self) -> int:
        """Of the output, all windows together."""
        return self.output_pixels * self.windows


class RunningMean:
    """A mean that forgets. The first measurement pays for caches and allocations, so the second one replaces a larger first."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._count = 0

    def add(self, value: float) -> None:
        """Take a measurement in."""
        self._count += 1
        if self.value is None or (self._count == 2 and value < self.value):
            self.value = value
        else:
            self.value += _WEIGHT * (value - self.value)


class LinearCost:
    """Seconds of work that is partly the same for every picture and partly by its pixels: a line through what was measured.

    The latest weigh most. A mean of seconds per pixel would not do: what a small picture takes at all, times the pixels of a large one,
    is minutes.
    """

    def __init__(self) -> None:
        # Decayed sums of 1, x, y, x * x and x * y.
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, pixels: int, seconds: float) -> None:
        """Take a measurement in."""
        new = (1.0, pixels, seconds, float(pixels) * pixels, pixels * seconds)
        old = (self._n, self._x, self._y, self._xx, self._xy)
        if self._n == 1 and self._y * pixels > seconds * self._x:  # the first one paid for caches and allocations
            old = (0.0,) * 5
        self._n, self._x, self._y, self._xx, self._xy = ((1 - _WEIGHT) * o + n for o, n in zip(old, new, strict=True))

    def seconds(self, pixels: int) -> float:
        """What so many pixels take; 0 before anything was measured. In proportion while all were of one size."""
        if not self._n or not self._x:
            return 0.0
        x, y = self._x / self._n, self._y / self._n
        variance, covariance = self._xx / self._n - x * x, self._xy / self._n - x * y
        # Neither part can be less than nothing, whatever noise says.
        slope = min(y / x, max(0.0, covariance / variance)) if variance > (_LEAST_SPREAD * x) ** 2 else y / x
        return y + slope * (pixels - x)


class Costs:
    """Seconds of the engine, for pictures alone and in batches. Not thread-safe by itself."""

    def __init__(self) -> None:
        self._network: dict[tuple[tuple[int, int], int], RunningMean] = {}
        """By padded size and batch size: seconds of the whole batch in preprocessing and network."""
        self._own: dict[tuple[Task, ...], LinearCost] = {}
        """By tasks: seconds of post-processing and encoding by pixels of the output."""
        self._per_flop = RunningMean()
        self.version = 0
        """Grows with every measurement."""

    @property
    def measured(self) -> bool:
        """Whether anything was measured yet."""
        return self._per_flop.value is not None

    def add(self, work: Work, prediction: Prediction, batch_size: int, resize_seconds: float = 0.0) -> None:
        """Take in what one picture of a batch took. Args: resize_seconds: what preprocessing holds that the engine did not spend."""
        timings = prediction.timings
        shared = max(0.0, timings.get("preprocess", 0.0) - resize_seconds) + timings.get("infer", 0.0)
        own = timings.get("postprocess", 0.0) + timings.get("encode", 0.0)
        self._network.setdefault((work.plan.padded, batch_size), RunningMean()).add(shared)
        self._own.setdefault(work.tasks, LinearCost()).add(work.output_pixels, own)
        self._per_flop.add(shared / batch_size / max(1, work.plan.flops))
        self.version += 1

    def seconds(self, work: Work) -> float:
        """What a picture alone takes, window by window where it has some."""
        return work.windows * (self._network_seconds(work, 1) + self._own_seconds(work))

    def batch_seconds(self, works: list[Work]) -> float:
        """What pictures of one padded size take together."""
        return self._network_seconds(works[0], len(works)) + sum(map(self._own_seconds, works))

    def least_seconds(self) -> float:
        """What the quickest kind of picture so far takes; 0 before anything was measured."""
        return min((mean.value / size for (_, size), mean in self._network.items() if mean.value is not None), default=0.0)

    def _network_seconds(self, work: Work, batch_size: int) -> float:
        known = self._network.get((work.plan.padded, batch_size))
        if known is not None and known.value is not None:
            return known.value
        sizes = [(size, mean.value) for (padded, size), mean in self._network.items() if padded == work.plan.padded and mean.value]
        if sizes:  # a batch of another size, in proportion
            size, seconds = min(sizes, key=lambda each: abs(each[0] - batch_size))
            return seconds * batch_size / size
        per_flop = _ASSUMED_SECONDS_PER_FLOP if self._per_flop.value is None else self._per_flop.value
        return per_flop * work.plan.flops * batch_size

    def _own_seconds(self, work: Work) -> float:
        known = self._own.get(work.tasks) or next(iter(self._own.values()), None)
        return 0.0 if known is None else known.seconds(work.output_pixels)
