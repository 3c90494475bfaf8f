"""The backlog: which pictures were admitted, whether one more can be done in time, and which one is computed next.

**Admission.** Pictures are done in the order of their deadlines (earliest deadline first), which meets all deadlines if any order does. A
picture is admitted when in this order every admitted picture, itself included, is expected to be done before its deadline, with a margin.
The margin is learned: it is how far the slowest of the latest twenty pictures fell behind what was expected of the same work.
Lower priorities must leave room: a bulk picture is admitted only if half of the time to its deadline suffices, a normal one if four
fifths do. So bulk is refused first, and the room that it left takes the pictures of higher priority that come later.

**Order.** The picture of the highest priority goes first, as long as all others would still meet their deadlines after it; else the one
with the earliest deadline. Nobody starves, because everybody's deadline is met. When the machine turns out slower than expected, so that
not all can be met any more, the longest pictures are put last until the others can (Moore and Hodgson's rule): then few are late, not all.

**Speed.** `Costs` knows what a picture takes by itself. The pace is what this service gets: wall seconds per second of such work and
computer, over the latest pictures. It rises when the machine is busy with other things or when other gateways use the same workers.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from proscale.results import Prediction
from proscale_service.engines.costs import Costs, Work
from proscale_service.errors import BacklogTooLong

PRIORITIES = ("interactive", "normal", "bulk")
DEFAULT_PRIORITY = "normal"
_SHARE_OF_TIME = {"interactive": 1.0, "normal": 0.8, "bulk": 0.5}
"""How much of the time to its deadline a picture of a priority may be expected to take when it is admitted."""
_ANSWER_S = 0.03
"""For writing and sending the answer, and for what the clock does not see."""
_PACE_MEMORIES = (0.8, 0.98)
"""What one batch leaves of the weight of all earlier ones: in the pace of the moment and in the usual one, of which the slower counts."""
_MARGIN_RANGE = (1.1, 3.0)
_MARGIN_PICTURES = 20
_LEAST_SPENT_S = 0.02
"""Of shorter waits the error says nothing."""
_PROBE_S = 5.0
"""An idle engine takes a picture that it is not expected to do in time this often: else a wrong estimate would stay for ever."""


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


@dataclass(eq=False)
class Admitted:
    """A picture that has a promise."""

    work: Work
    deadline: float
    priority: str
    admitted_at: float
    done_work_before: float
    """Engine seconds of work that had been done when it was admitted."""
    expected_s: float
    """Seconds from admission in which it was expected."""
    reading_until: float
    """When it was expected to be decoded."""
    started_at: float | None = None
    pace_then: float = 1.0


class Backlog:
    """Any thread may call it. Times are seconds of `clock`."""

    def __init__(
        self,
        slots: Callable[[], int] = lambda: 1,
        readers: int = 1,
        observe: Callable[[float], None] = lambda ratio: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: slots: computers of pictures; readers: threads that decode; observe: told of every picture's truth over expectation."""
        self.costs = Costs()
        self._slots, self._readers, self._observe, self._clock = slots, readers, observe, clock
        self._lock = threading.RLock()
        self._admitted: dict[Admitted, None] = {}
        self._read_seconds_per_pixel = 0.0
        self._paces = [RunningPace(memory) for memory in _PACE_MEMORIES]
        self._done_work = 0.0
        self._last_event = -math.inf
        """When work was finished last, or begun by an idle engine."""
        self._errors: deque[float] = deque(maxlen=_MARGIN_PICTURES)
        self._probed_at = -math.inf

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def pace(self) -> float:
        """Wall seconds per second of work and slot."""
        return max(pace.value for pace in self._paces)

    @property
    def margin(self) -> float:
        """By how much longer than expected a picture may take."""
        low, high = _MARGIN_RANGE
        return min(high, max(low, *self._errors)) if self._errors else low

    def admit(self, work: Work, deadline: float, priority: str) -> Admitted:
        """Promise to do a picture by its deadline.

        Raises:
            BacklogTooLong: it is not expected to be done in time, or others would not be.
        """
        with self._lock:
            now = self._clock()
            pending = [each for each in self._admitted if each.reading_until > now]
            reading = self._read_seconds_per_pixel * work.all_pixels
            ahead = sum(self._read_seconds_per_pixel * each.work.all_pixels for each in pending) / self._readers
            entry = Admitted(work, deadline, priority, now, self._done_work_at(now), 0.0, now + ahead + reading, None, self.pace)
            if self._promise(entry, now) or self._probe(entry, now):
                self._admitted[entry] = None
                return entry
            seconds = self._excess(entry, now)
        raise _refusal(seconds)

    def check(self, deadline: float, priority: str) -> None:
        """Raise BacklogTooLong when even the quickest kind of picture would not be done by its deadline; for before its body is read."""
        with self._lock:
            now = self._clock()
            if not self._admitted:
                return
            ahead = [each for each in self._admitted if each.deadline <= deadline]
            finish = self._finish_times(ahead, now)[-1] if ahead else self._free_at(now)
            seconds = finish + self.costs.least_seconds() * self._wall_per_work() - now
            if seconds * self.margin + _ANSWER_S <= _SHARE_OF_TIME[priority] * (deadline - now):
                return
        raise _refusal(seconds)

    def read(self, entry: Admitted, seconds: float) -> None:
        """It is decoded, which took so long, and may be computed."""
        with self._lock:
            rate = seconds / max(1, entry.work.all_pixels)
            known = self._read_seconds_per_pixel
            self._read_seconds_per_pixel = known + 0.2 * (rate - known) if known else rate
            entry.reading_until = self._clock()

    def split(self, entry: Admitted) -> Admitted:
        """Take one window out of a picture's promise as an entry of its own; the others stay promised."""
        with self._lock:
            now, left = self._clock(), entry.work.windows - 1
            one = replace(entry.work, windows=1)
            if left > 0:
                entry.work = replace(entry.work, windows=left)
            else:
                self._admitted.pop(entry, None)
            ahead = [each for each in self._admitted if each is not entry and each.deadline <= entry.deadline]
            expected = (self._finish_times(ahead, now)[-1] if ahead else self._free_at(now)) + self.costs.seconds(
                one
            ) * self._wall_per_work()
            part = Admitted(one, entry.deadline, entry.priority, now, self._done_work_at(now), expected - now, now, None, self.pace)
            self._admitted[part] = None
            return part

    def discard(self, entry: Admitted) -> None:
        """Nobody waits for it. What is being computed stays until `finish` or `stop`."""
        with self._lock:
            if entry.started_at is None:
                self._admitted.pop(entry, None)

    def stop(self, entries: Iterable[Admitted]) -> None:
        """These failed, or are not computed any more."""
        with self._lock:
            for entry in entries:
                self._admitted.pop(entry, None)
            self._last_event = self._clock()

    def measured(self, work: Work, prediction: Prediction, batch_size: int, resize_seconds: float = 0.0) -> None:
        """See `Costs.add`."""
        with self._lock:
            self.costs.add(work, prediction, batch_size, resize_seconds)

    def start(self, entries: Iterable[Admitted]) -> None:
        """These are being computed."""
        with self._lock:
            now = self._clock()
            if not any(each.started_at is not None for each in self._admitted):
                self._last_event = now
            for entry in entries:
                entry.started_at = now

    def finish(self, entries: Sequence[Admitted]) -> None:
        """These were computed together. Call `measured` before."""
        with self._lock:
            now, slots = self._clock(), max(1, self._slots())
            running = sum(each.started_at is not None for each in self._admitted)
            work = sum(self.costs.seconds(each.work) for each in entries)
            self._done_work += work
            for pace in self._paces:
                pace.add((now - self._last_event) * min(max(1, running), slots), work)
            self._last_event = now
            for each in entries:
                spent = (self._done_work - each.done_work_before) * each.pace_then / slots
                if spent > _LEAST_SPENT_S:
                    self._errors.append((now - each.admitted_at) / spent)
                self._observe((now - each.admitted_at) / max(each.expected_s, _LEAST_SPENT_S))
                self._admitted.pop(each, None)

    def pick(self, ready: Sequence[Admitted]) -> Admitted:
        """Which of these is to be computed next. Args: ready: at least one."""
        with self._lock:
            now = self._clock()
            waiting = [each for each in self._admitted if each.started_at is None]
            in_time, late = self._moore_hodgson(waiting, now)
            candidates = [each for each in ready if each not in late] or list(ready)
            for priority in PRIORITIES:
                first = min((each for each in candidates if each.priority == priority), key=_deadline, default=None)
                if first is not None and self._feasible([first], [each for each in in_time if each is not first], now):
                    return first
            return min(candidates, key=_deadline)

    def may_join(self, batch: Sequence[Admitted]) -> bool:
        """Whether these can be computed together now without a deadline missed, theirs or another's."""
        with self._lock:
            now = self._clock()
            others = [each for each in self._admitted if each.started_at is None and each not in batch]
            return self._feasible(batch, self._moore_hodgson(others, now)[0], now)

    def expected_seconds(self, work: Work | None = None) -> float | None:
        """How long until all that was admitted, and this picture after it, would be done; None before anything was measured."""
        with self._lock:
            now = self._clock()
            if not self.costs.measured:
                return None
            finish = self._finish_times(list(self._admitted), now)
            own = self.costs.seconds(work) * self._wall_per_work() if work else 0.0
            return (finish[-1] if finish else self._free_at(now)) - now + own

    def _promise(self, entry: Admitted, now: float) -> bool:
        entries = sorted([*(each for each in self._admitted if each.started_at is None), entry], key=_deadline)
        margin = self.margin
        for each, finish in zip(entries, self._finish_times(entries, now), strict=True):
            share = _SHARE_OF_TIME[entry.priority] if each is entry else 1.0
            if each is entry:
                finish = max(finish, entry.reading_until + self.costs.seconds(entry.work) * self.pace)
                entry.expected_s = finish - now
            late = (finish - now) * margin + _ANSWER_S > share * (each.deadline - now)
            # Those that are late anyway must not keep others out.
            if late and (each is entry or (each.deadline >= entry.deadline and each.deadline > now)):
                return False
        return True

    def _probe(self, entry: Admitted, now: float) -> bool:
        if self._admitted or entry.deadline <= now:
            return False
        # Alone, a picture needs no margin against a backlog.
        if now + entry.expected_s > entry.deadline and now - self._probed_at < _PROBE_S and self.costs.measured:
            return False
        self._probed_at = now
        return True

    def _excess(self, entry: Admitted, now: float) -> float:
        """Seconds after which the backlog would have room for it."""
        finish = self._finish_times(list(self._admitted), now)
        backlog = (finish[-1] if finish else now) - now
        return max(0.0, backlog - _SHARE_OF_TIME[entry.priority] * (entry.deadline - now) / self.margin)

    def _feasible(self, first: Sequence[Admitted], others: Sequence[Admitted], now: float) -> bool:
        """Whether all meet their deadlines when `first` are computed together now and the others then, earliest deadline first."""
        at = self._free_at(now) + self.costs.batch_seconds([each.work for each in first]) * self.pace
        if any(at > each.deadline - _ANSWER_S for each in first):
            return False
        per_work, margin = self._wall_per_work(), self.margin
        for each in sorted(others, key=_deadline):
            at += self.costs.seconds(each.work) * per_work
            if now + (at - now) * margin > each.deadline - _ANSWER_S:
                return False
        return True

    def _moore_hodgson(self, waiting: Iterable[Admitted], now: float) -> tuple[list[Admitted], set[Admitted]]:
        """Those that can be done in time, as many as possible, and the others."""
        at, per_work = self._free_at(now), self._wall_per_work()
        in_time: list[Admitted] = []
        late: set[Admitted] = set()
        for each in sorted(waiting, key=_deadline):
            in_time.append(each)
            at += self.costs.seconds(each.work) * per_work
            if at > each.deadline - _ANSWER_S:
                longest = max(in_time, key=lambda entry: self.costs.seconds(entry.work))
                in_time.remove(longest)
                late.add(longest)
                at -= self.costs.seconds(longest.work) * per_work
        return in_time, late

    def _finish_times(self, entries: Sequence[Admitted], now: float) -> list[float]:
        """When each is done if they are computed in this order after what is being computed."""
        at, per_work = self._free_at(now), self._wall_per_work()
        times = []
        for each in entries:
            if each.started_at is None:
                at += self.costs.seconds(each.work) * per_work
            times.append(at)
        return times

    def _free_at(self, now: float) -> float:
        """When what is being computed is done."""
        running = [each for each in self._admitted if each.started_at is not None]
        if not running:
            return now
        work = sum(self.costs.seconds(each.work) for each in running) * self._wall_per_work()
        return now + max(0.1 * work, work - (now - self._last_event))

    def _done_work_at(self, now: float) -> float:
        running = sum(self.costs.seconds(each.work) for each in self._admitted if each.started_at is not None)
        return self._done_work + min(running, (now - self._last_event) / self._wall_per_work()) if running else self._done_work

    def _wall_per_work(self) -> float:
        return self.pace / max(1, self._slots())


def _deadline(entry: Admitted) -> float:
    return entry.deadline


def _refusal(seconds: float) -> BacklogTooLong:
    return BacklogTooLong(
        "so much work waits that the picture would not be done by its deadline; try again later, or give it a later deadline",
        retry_after=max(1, min(60, math.ceil(seconds))),
    )
