"""How long pictures take: learned per padded size and batch size, from what the engine measures."""

from dataclasses import dataclass

from proscale.config import Task
from proscale.results import Plan, Prediction

_ASSUMED_SECONDS_PER_FLOP = 1e-10
"""Before anything was measured: 10 GMAC/s, which two threads of a server's processor reach with small networks."""
_WEIGHT = 0.1
"""Of the newest measurement in a running mean."""


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


class Costs:
    """Seconds of the engine, for pictures alone and in batches. Not thread-safe by itself."""

    def __init__(self) -> None:
        self._network: dict[tuple[tuple[int, int], int], RunningMean] = {}
        """By padded size and batch size: seconds of the whole batch in preprocessing and network."""
        self._per_pixel: dict[tuple[Task, ...], RunningMean] = {}
        """By tasks: seconds of post-processing and encoding per pixel of the output."""
        self._per_flop = RunningMean()

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
        self._per_pixel.setdefault(work.tasks, RunningMean()).add(own / max(1, work.output_pixels))
        self._per_flop.add(shared / batch_size / max(1, work.plan.flops))

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
        known = self._per_pixel.get(work.tasks) or next(iter(self._per_pixel.values()), None)
        return 0.0 if known is None or known.value is None else known.value * work.output_pixels
