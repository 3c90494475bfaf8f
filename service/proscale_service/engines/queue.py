"""The queue in front of the engine, or of several workers alike: what was admitted for all models, and how fast that gets done.

**Speed.** `Costs` of a model knows what a picture takes by itself. The pace is what this service gets: wall seconds per second of such
work and computer, over the latest pictures of all models. It rises when the machine is busy with other things or when other gateways use
the same workers.

**Order.** The picture of the highest priority goes first, as long as all others would still meet their deadlines after it; else the one
with the earliest deadline. Nobody starves, because everybody's deadline is met. When the machine turns out slower than expected, so that
not all can be met any more, the longest pictures are put last until the others can (Moore and Hodgson's rule): then few are late, not all.

**Margin.** How far pictures fell behind what was expected of the same work. What goes wrong by chance, one picture at a time, evens out
while many are waited for: its share falls with the square root of the time. So the latest twenty pictures tell of waits of any length.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from proscale_service.engines.costs import Costs, Work

PRIORITIES = ("interactive", "normal", "bulk")
DEFAULT_PRIORITY = "normal"
ANSWER_S = 0.03
"""For writing and sending the answer, and for what the clock does not see."""
LEAST_SPENT_S = 0.02
"""Of shorter waits the error says nothing."""
_PACE_MEMORIES = (0.8, 0.98)
"""What one batch leaves of the weight of all earlier ones: in the pace of the moment and in the usual one, of which the slower counts."""
_MARGIN_RANGE = (1.1, 3.0)
_MARGIN_PICTURES = 20
_CHANCES = 1.5
"""How much further pictures to come may fall behind than the worst of these."""


@dataclass(eq=False)
class Admitted:
    """A picture that has a promise."""

    work: Work
    deadline: float
    priority: str
    costs: Costs
    """Of its model."""
    admitted_at: float
    done_work_before: float = 0.0
    """Engine seconds of work that had been done when it was admitted."""
    expected_s: float = 0.0
    """Seconds from admission in which it was expected."""
    reading_until: float = 0.0
    """When it was expected to be decoded."""
    started_at: float | None = None
    pace_then: float = 1.0
    _known: tuple[int, Work, float] | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """What it takes alone, by what is known now. Asked for every picture that waits at every decision, so it is kept."""
        if self._known is None or self._known[0] != self.costs.version or self._known[1] is not self.work:
            self._known = self.costs.version, self.work, self.costs.seconds(self.work)
        return self._known[2]

    def assume(self, seconds: float) -> None:
        """That it takes so long, until something is measured."""
        self._known = self.costs.version, self.work, seconds


class RunningPace:
    """Wall seconds per second of work, the latest weighing most."""

    def __init__(self, memory: float) -> None:
        """Args: memory: what is left of earlier weights after every measurement."""
        self._memory, self._wall, self._work = memory, 0.0, 0.0

    @property
    def value(self) -> float:
        """1 before anything was measured."""
        return self._wall / self._work if self._work else 1.0

    def add(self, wall: float, work: float) -> None:
        """Take a measurement in."""
        self._wall, self._work = self._memory * self._wall + wall, self._memory * self._work + work


class Queue:
    """Whoever calls it holds `lock`. Times are seconds of `clock`."""

    def __init__(self, slots: Callable[[], int] = lambda: 1, readers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: slots: computers of pictures; readers: threads that decode."""
        self.clock, self.readers = clock, readers
        self.lock = threading.RLock()
        self.admitted: dict[Admitted, None] = {}
        self._slots = slots
        self._paces = [RunningPace(memory) for memory in _PACE_MEMORIES]
        self._done_work = 0.0
        self._last_event = -math.inf
        """When work was finished last, or begun by an idle engine."""
        self._waits: deque[tuple[float, float, float]] = deque(maxlen=_MARGIN_PICTURES)
        """Of the latest pictures: wall seconds, the work per slot that was done meanwhile, and the pace when they were admitted."""

    @property
    def slots(self) -> int:
        """Computers of pictures, at least one."""
        return max(1, self._slots())

    @property
    def pace(self) -> float:
        """Wall seconds per second of work and slot."""
        return max(pace.value for pace in self._paces)

    @property
    def wall_per_work(self) -> float:
        """Wall seconds per second of work."""
        return self.pace / self.slots

    def margin(self) -> Callable[[float], float]:
        """From seconds of waiting as expected to how many times longer they may become, as things stand now."""
        pace, chance = self.pace, 0.0
        for wall, work, pace_then in self._waits:
            # What the pace has learned since is in the expectation already.
            excess = wall / (work * max(pace, pace_then)) - 1
            chance = max(chance, _CHANCES * excess * math.sqrt(wall))
        low, high = _MARGIN_RANGE
        return lambda seconds: min(high, max(low, 1 + chance / math.sqrt(max(LEAST_SPENT_S, seconds))))

    def forget(self, entries: Iterable[Admitted]) -> None:
        """These failed, or are not computed any more."""
        for entry in entries:
            self.admitted.pop(entry, None)
        self._last_event = self.clock()

    def start(self, entries: Iterable[Admitted]) -> None:
        """These are being computed."""
        now = self.clock()
        if not any(each.started_at is not None for each in self.admitted):
            self._last_event = now
        for entry in entries:
            entry.started_at = now

    def finish(self, entries: Sequence[Admitted]) -> None:
        """These were computed together."""
        now, slots = self.clock(), self.slots
        running = sum(each.started_at is not None for each in self.admitted)
        work = sum(each.seconds for each in entries)
        self._done_work += work
        for pace in self._paces:
            pace.add((now - self._last_event) * min(max(1, running), slots), work)
        self._last_event = now
        for each in entries:
            spent = (self._done_work - each.done_work_before) / slots
            if spent * each.pace_then > LEAST_SPENT_S:
                self._waits.append((now - each.admitted_at, spent, each.pace_then))
            self.admitted.pop(each, None)

    def finish_times(self, entries: Sequence[Admitted], now: float) -> list[float]:
        """When each is done if they are computed in this order after what is being computed."""
        at, per_work = self.free_at(now), self.wall_per_work
        times = []
        for each in entries:
            if each.started_at is None:
                at += each.seconds * per_work
            times.append(at)
        return times

    def free_at(self, now: float) -> float:
        """When what is being computed is done."""
        running = [each.seconds for each in self.admitted if each.started_at is not None]
        if not running:
            return now
        work = sum(running) * self.wall_per_work
        return now + max(0.1 * work, work - (now - self._last_event))

    def done_work_at(self, now: float) -> float:
        """Engine seconds of work that are done, what is being computed included as far as it must have come."""
        running = sum(each.seconds for each in self.admitted if each.started_at is not None)
        return self._done_work + min(running, (now - self._last_event) / self.wall_per_work) if running else self._done_work

    def pick(self, ready: Sequence[Admitted]) -> Admitted:
        """Which of these is to be computed next. Args: ready: at least one; of any models in the queue."""
        now = self.clock()
        in_time, late = self.in_time((each for each in self.admitted if each.started_at is None), now)
        candidates = [each for each in ready if each not in late] or list(ready)
        for priority in PRIORITIES:
            first = min((each for each in candidates if each.priority == priority), key=by_deadline, default=None)
            if first is not None and self.feasible([first], first.seconds, (each for each in in_time if each is not first), now):
                return first
        return min(candidates, key=by_deadline)

    def feasible(self, first: Sequence[Admitted], first_seconds: float, others: Iterable[Admitted], now: float) -> bool:
        """Whether all meet their deadlines when `first` are computed together now and the others then, earliest deadline first.

        Args: first_seconds: what `first` take together, as work.
        """
        at = self.free_at(now) + first_seconds * self.pace
        if any(at > each.deadline - ANSWER_S for each in first):
            return False
        per_work, margin = self.wall_per_work, self.margin()
        for each in sorted(others, key=by_deadline):
            at += each.seconds * per_work
            if now + (at - now) * margin(at - now) > each.deadline - ANSWER_S:
                return False
        return True

    def in_time(self, waiting: Iterable[Admitted], now: float) -> tuple[list[Admitted], set[Admitted]]:
        """Those that can be done in time, as many as possible (Moore and Hodgson's rule), and the others."""
        at, per_work = self.free_at(now), self.wall_per_work
        in_time: list[Admitted] = []
        late: set[Admitted] = set()
        for each in sorted(waiting, key=by_deadline):
            in_time.append(each)
            at += each.seconds * per_work
            if at > each.deadline - ANSWER_S:
                longest = max(in_time, key=lambda entry: entry.seconds)
                in_time.remove(longest)
                late.add(longest)
                at -= longest.seconds * per_work
        return in_time, late


def by_deadline(entry: Admitted) -> float:
    """Earliest deadline first."""
    return entry.deadline
