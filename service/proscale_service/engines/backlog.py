"""The backlog of a model: which pictures were admitted, and whether one more can be done in time.

**Admission.** Pictures are done in the order of their deadlines (earliest deadline first), which meets all deadlines if any order does. A
picture is admitted when in this order every admitted picture, itself included, is expected to be done before its deadline, with a margin.
Lower priorities must leave room: a bulk picture is admitted only if half of the time to its deadline suffices, a normal one if four
fifths do. So bulk is refused first, and the room that it left takes the pictures of higher priority that come later.

Models that are computed by the same processor stand in one queue (`queue.py`), which knows its speed, how far that is to be trusted, and
who is next: a picture of one model waits for those of the others, too.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from proscale.results import Plan, Prediction
from proscale_service.engines.costs import Costs, LinearCost, Work
from proscale_service.engines.queue import ANSWER_S, DEFAULT_PRIORITY, LEAST_SPENT_S, PRIORITIES, Admitted, Queue, by_deadline
from proscale_service.errors import BacklogTooLong

__all__ = ["DEFAULT_PRIORITY", "PRIORITIES", "Admitted", "Backlog"]

_SHARE_OF_TIME = {"interactive": 1.0, "normal": 0.8, "bulk": 0.5}
"""How much of the time to its deadline a picture of a priority may be expected to take when it is admitted."""
_UNKNOWN = Work(Plan((0, 0), (0, 0), 0, 0), 0, ())
"""Of a picture that nobody has seen."""
_PROBE_S = 5.0
"""An idle engine takes a picture that it is not expected to do in time this often: else a wrong estimate would stay for ever."""


class Backlog:
    """Any thread may call it. Times are seconds of `clock`."""

    def __init__(
        self,
        slots: Callable[[], int] = lambda: 1,
        readers: int = 1,
        observe: Callable[[float], None] = lambda ratio: None,
        clock: Callable[[], float] = time.monotonic,
        queue: Queue | None = None,
    ) -> None:
        """Make one.

        Args:
            slots: computers of pictures.
            readers: threads that decode.
            observe: called with measured over expected time of every picture.
            queue: shared with other models; then `slots`, `readers` and `clock` are its own.
        """
        self.costs = Costs()
        self._queue = queue or Queue(slots, readers, clock)
        self._lock, self._clock, self._observe = self._queue.lock, self._queue.clock, observe
        self._reading = LinearCost()
        self._probed_at = -math.inf

    def __len__(self) -> int:
        """Pictures of this model."""
        return sum(each.costs is self.costs for each in list(self._queue.admitted))

    @property
    def pace(self) -> float:
        """Wall seconds per second of work and slot."""
        return self._queue.pace

    def admit(self, work: Work, deadline: float, priority: str) -> Admitted:
        """Promise to do a picture by its deadline.

        Raises:
            BacklogTooLong: it is not expected to be done in time, or others would not be.
        """
        with self._lock:
            queue, now = self._queue, self._clock()
            ahead = sum(self._reading.seconds(each.work.all_pixels) for each in queue.admitted if each.reading_until > now) / queue.readers
            read_at = now + ahead + self._reading.seconds(work.all_pixels)
            entry = Admitted(work, deadline, priority, self.costs, now, queue.done_work_at(now), 0.0, read_at, pace_then=queue.pace)
            if self._promise(entry, now) or self._probe(entry, now):
                queue.admitted[entry] = None
                return entry
            seconds = self._excess(entry, now)
        raise _refusal(seconds)

    def check(self, deadline: float, priority: str) -> None:
        """Raise BacklogTooLong when even the quickest kind of picture would be late, or make others late; for before its body is read."""
        with self._lock:
            queue, now = self._queue, self._clock()
            quickest = Admitted(_UNKNOWN, deadline, priority, self.costs, now, reading_until=now)
            quickest.assume(self.costs.least_seconds())
            if not queue.admitted or self._promise(quickest, now):
                return
            seconds = self._excess(quickest, now)
        raise _refusal(seconds)

    def read(self, entry: Admitted, seconds: float) -> None:
        """It is decoded, which took so long, and may be computed."""
        with self._lock:
            self._reading.add(entry.work.all_pixels, seconds)
            entry.reading_until = self._clock()

    def split(self, entry: Admitted) -> Admitted:
        """Take one window out of a picture's promise as an entry of its own; the others stay promised."""
        with self._lock:
            queue, now, left = self._queue, self._clock(), entry.work.windows - 1
            one = replace(entry.work, windows=1)
            if left > 0:
                entry.work = replace(entry.work, windows=left)
            else:
                queue.admitted.pop(entry, None)
            ahead = [each for each in queue.admitted if each is not entry and each.deadline <= entry.deadline]
            finish = queue.finish_times(ahead, now)[-1] if ahead else queue.free_at(now)
            expected = finish + self.costs.seconds(one) * queue.wall_per_work - now
            part = Admitted(one, entry.deadline, entry.priority, self.costs, now, queue.done_work_at(now), expected, now, None, queue.pace)
            queue.admitted[part] = None
            return part

    def discard(self, entry: Admitted) -> None:
        """Nobody waits for it. What is being computed stays until `finish` or `stop`."""
        with self._lock:
            if entry.started_at is None:
                self._queue.admitted.pop(entry, None)

    def stop(self, entries: Iterable[Admitted]) -> None:
        """These failed, or are not computed any more."""
        with self._lock:
            self._queue.forget(entries)

    def measured(self, work: Work, prediction: Prediction, batch_size: int, resize_seconds: float = 0.0) -> None:
        """See `Costs.add`."""
        with self._lock:
            self.costs.add(work, prediction, batch_size, resize_seconds)

    def start(self, entries: Iterable[Admitted]) -> None:
        """These are being computed."""
        with self._lock:
            self._queue.start(entries)

    def finish(self, entries: Sequence[Admitted]) -> None:
        """These were computed together. Call `measured` before."""
        with self._lock:
            now = self._clock()
            self._queue.finish(entries)
            for each in entries:
                self._observe((now - each.admitted_at) / max(each.expected_s, LEAST_SPENT_S))

    def pick(self, ready: Sequence[Admitted]) -> Admitted:
        """See `Queue.pick`."""
        with self._lock:
            return self._queue.pick(ready)

    def may_join(self, batch: Sequence[Admitted]) -> bool:
        """Whether these can be computed together now without a deadline missed, theirs or another's. Args: batch: of this model."""
        with self._lock:
            queue, now = self._queue, self._clock()
            others = [each for each in queue.admitted if each.started_at is None and each not in batch]
            together = self.costs.batch_seconds([each.work for each in batch])
            return queue.feasible(batch, together, queue.in_time(others, now)[0], now)

    def expected_seconds(self, work: Work | None = None) -> float | None:
        """How long until all that was admitted, and this picture after it, would be done; None before anything was measured."""
        with self._lock:
            queue, now = self._queue, self._clock()
            if not self.costs.measured:
                return None
            finish = queue.finish_times(list(queue.admitted), now)
            own = self.costs.seconds(work) * queue.wall_per_work if work else 0.0
            return (finish[-1] if finish else queue.free_at(now)) - now + own

    def _promise(self, entry: Admitted, now: float) -> bool:
        queue = self._queue
        entries = sorted([*(each for each in queue.admitted if each.started_at is None), entry], key=by_deadline)
        margin = queue.margin()
        for each, finish in zip(entries, queue.finish_times(entries, now), strict=True):
            share = _SHARE_OF_TIME[entry.priority] if each is entry else 1.0
            if each is entry:
                finish = max(finish, entry.reading_until + entry.seconds * queue.pace)
                entry.expected_s = finish - now
            late = (finish - now) * margin(finish - now) + ANSWER_S > share * (each.deadline - now)
            # Those that are late anyway must not keep others out.
            if late and (each is entry or (each.deadline >= entry.deadline and each.deadline > now)):
                return False
        return True

    def _probe(self, entry: Admitted, now: float) -> bool:
        if self._queue.admitted or entry.deadline <= now:
            return False
        # Alone, a picture needs no margin against a backlog.
        if now + entry.expected_s > entry.deadline and now - self._probed_at < _PROBE_S and self.costs.measured:
            return False
        self._probed_at = now
        return True

    def _excess(self, entry: Admitted, now: float) -> float:
        """Seconds after which the backlog would have room for it."""
        finish = self._queue.finish_times(list(self._queue.admitted), now)
        backlog = (finish[-1] if finish else now) - now
        return max(0.0, backlog - _SHARE_OF_TIME[entry.priority] * (entry.deadline - now) / self._queue.margin()(backlog))


def _refusal(seconds: float) -> BacklogTooLong:
    return BacklogTooLong(
        "too much work waits: the picture would not be done by its deadline; try again later, or set a later deadline_ms",
        retry_after=max(1, min(60, math.ceil(seconds))),
    )
