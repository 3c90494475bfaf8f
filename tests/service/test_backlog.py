"""Admission and order against a fake clock: a machine that computes one picture at a time, and more work than it can do."""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field, replace

import pytest

from proscale.results import Plan, Prediction
from proscale_service.engines.backlog import PRIORITIES, Admitted, Backlog
from proscale_service.engines.costs import LinearCost, Work
from proscale_service.engines.queue import Queue
from proscale_service.errors import BacklogTooLong

SMALL, LARGE = (64, 64), (640, 640)
MOST_PICTURES = 64
SECONDS = {SMALL: 0.05, LARGE: 0.4}


def work(padded: tuple[int, int]) -> Work:
    return Work(Plan(padded, padded, int(SECONDS[padded] * 1e10), 1), 1000, ("panoptic",))


def measure(backlog: Backlog, padded: tuple[int, int], seconds: float) -> None:
    backlog.measured(work(padded), Prediction({}, work(padded).plan, {"infer": seconds}), 1)


def test_windows_of_a_picture_are_admitted_together_and_computed_one_by_one() -> None:
    backlog = Backlog(clock=lambda: 0.0)
    measure(backlog, SMALL, 0.05)
    windows = replace(work(SMALL), windows=10)
    assert backlog.expected_seconds(windows) == pytest.approx(0.5)
    forty = replace(windows, windows=40)
    backlog.discard(backlog.admit(forty, 3.0, "normal"))
    rest = backlog.admit(windows, 3.0, "normal")
    with pytest.raises(BacklogTooLong):  # its windows are in the way, although none is in the engine yet
        backlog.admit(forty, 3.0, "normal")
    parts = [backlog.split(rest) for _ in range(9)]
    assert (rest.work.windows, len(backlog)) == (1, 10)
    assert backlog.expected_seconds() == pytest.approx(0.5)
    assert backlog.pick(parts) is parts[0]
    backlog.discard(rest)
    backlog.stop(parts)
    assert len(backlog) == 0
    last = backlog.admit(work(SMALL), 3.0, "normal")
    assert backlog.split(last).deadline == 3.0
    assert len(backlog) == 1


@dataclass
class Machine:
    """Computes what the backlog picks; `slow` says how much longer than usual it takes at a time."""

    seed: int = 0
    noise: float = 0.1
    slow: "list[tuple[float, float]]" = field(default_factory=list)
    now: float = 0.0
    in_time: int = 0
    late: int = 0
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0))
    admitted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, 0))
    waits: dict[str, list[float]] = field(default_factory=lambda: {priority: [] for priority in PRIORITIES})
    retry_after: "list[int | None]" = field(default_factory=list)
    busy_seconds: float = 0.0
    ideal_seconds: float = 0.0

    def run(self, arrivals: "list[tuple[float, Work, float, str]]", measured: bool = True) -> Backlog:
        """Args: arrivals: (time, work, seconds to the deadline, priority)."""
        rng = random.Random(self.seed)
        backlog = Backlog(clock=lambda: self.now)
        if measured:
            for padded, seconds in SECONDS.items():
                measure(backlog, padded, seconds)
        waiting: list[Admitted] = []
        events = [(at, number, (asked, seconds, priority)) for number, (at, asked, seconds, priority) in enumerate(arrivals)]
        heapq.heapify(events)
        while events or waiting:
            while events and (events[0][0] <= self.now or not waiting):
                at, _, (asked, seconds, priority) = heapq.heappop(events)
                self.now = max(self.now, at)
                if len(backlog) >= MOST_PICTURES:  # the bound behind the promise
                    self.refused[priority] += 1
                    continue
                try:
                    promise = backlog.admit(asked, at + seconds, priority)
                except BacklogTooLong as error:
                    self.retry_after.append(error.retry_after)
                    self.refused[priority] += 1
                    continue
                backlog.read(promise, 0.0)
                self.admitted[priority] += 1
                waiting.append(promise)
            for promise in [each for each in waiting if each.deadline <= self.now]:
                self.late += 1
                waiting.remove(promise)
                backlog.discard(promise)
            if waiting:
                self.compute(backlog, waiting, rng)
        return backlog

    def compute(self, backlog: Backlog, waiting: list[Admitted], rng: random.Random) -> None:
        promise = backlog.pick(waiting)
        waiting.remove(promise)
        backlog.start([promise])
        factor = next((by for until, by in self.slow if self.now < until), 1.0)
        usual = SECONDS[promise.work.plan.padded]
        seconds = usual * factor * max(0.3, rng.gauss(1, self.noise))
        self.now += seconds
        self.busy_seconds += seconds
        measure(backlog, promise.work.plan.padded, seconds)
        backlog.finish([promise])
        self.waits[promise.priority].append(self.now - promise.admitted_at)
        if self.now <= promise.deadline:
            self.in_time += 1
            self.ideal_seconds += usual
        else:
            self.late += 1


def overload(times: float, seconds: float, deadlines: "tuple[float, float]", padded: "list[tuple[int, int]]", seed: int = 1) -> list:
    """Arrivals without a pattern, at so many times of what the machine can do."""
    rng = random.Random(seed)
    rate = times / (sum(SECONDS[each] for each in padded) / len(padded))
    at, arrivals = 0.0, []
    while at < seconds:
        at += rng.expovariate(rate)
        low, high = deadlines
        arrivals.append((at, work(rng.choice(padded)), low * (high / low) ** rng.random(), rng.choice(PRIORITIES)))
    return arrivals


@pytest.mark.parametrize("times", [1, 2, pytest.param(5, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("deadlines", "padded"), [((4, 4), [SMALL]), ((0.3, 30), [SMALL]), ((1, 30), [SMALL, LARGE])])
def test_under_overload_throughput_stays_and_deadlines_are_met(
    times: float, deadlines: tuple[float, float], padded: list[tuple[int, int]]
) -> None:
    machine = Machine()
    machine.run(overload(times, 120, deadlines, padded))
    # What is done in time is worth nearly all of the machine's time.
    assert machine.ideal_seconds >= 0.9 * min(120, machine.busy_seconds) * (1 if times > 1 else 0.9)
    assert machine.busy_seconds >= 0.9 * 120 * min(1, times * 0.95)
    assert machine.late <= 0.01 * (machine.late + machine.in_time)
    assert all(seconds and 1 <= seconds <= 60 for seconds in machine.retry_after)


def test_all_is_admitted_while_there_is_room() -> None:
    machine = Machine()
    machine.run(overload(0.5, 120, (4, 4), [SMALL]))
    assert sum(machine.refused.values()) == 0
    assert machine.late == 0


@pytest.mark.slow
def test_when_the_machine_slows_down_few_pictures_are_late() -> None:
    machine = Machine(slow=[(40, 1.0), (80, 3.0)])
    machine.run(overload(5, 120, (4, 4), [SMALL]))
    # Of what it could do in the 40 slow seconds at a third of the speed, and before and after at full speed.
    assert machine.in_time * SECONDS[SMALL] >= 0.85 * (80 + 40 / 3)
    assert machine.late <= 0.08 * machine.in_time


def test_bulk_is_refused_first_and_interactive_computed_first_and_nobody_starves() -> None:
    machine = Machine()
    machine.run(overload(1.5, 240, (2, 2), [SMALL]))
    share = {priority: machine.refused[priority] / (machine.refused[priority] + machine.admitted[priority]) for priority in PRIORITIES}
    assert share["interactive"] < 0.1 < share["bulk"]
    assert share["interactive"] <= share["normal"] <= share["bulk"]
    medians = {priority: sorted(waits)[len(waits) // 2] for priority, waits in machine.waits.items()}
    assert medians["interactive"] < 0.5 * medians["bulk"]
    assert machine.admitted["bulk"] > 0
    assert machine.late <= 0.01 * machine.in_time


def test_the_initial_estimate_is_soon_corrected() -> None:
    machine = Machine()
    slow = [(at, work(SMALL), 2.0, "normal") for at in (i * 0.01 for i in range(500))]
    backlog = machine.run(slow, measured=False)
    assert machine.in_time >= 0.9 * 5 / SECONDS[SMALL] * 0.9
    assert backlog.costs.seconds(work(SMALL)) == pytest.approx(SECONDS[SMALL], rel=0.3)


def test_a_wrong_estimate_does_not_stay() -> None:
    now = [0.0]
    backlog = Backlog(clock=lambda: now[0])
    measure(backlog, SMALL, 9.0)
    promise = backlog.admit(work(SMALL), 1.0, "normal")  # an idle engine tries
    backlog.start([promise])
    now[0] = 0.05
    measure(backlog, SMALL, 0.05)
    backlog.finish([promise])
    backlog.admit(work(SMALL), now[0] + 1.0, "normal")


def test_a_check_before_the_body_refuses_what_cannot_be_done_and_nothing_else() -> None:
    now = [0.0]
    backlog = Backlog(clock=lambda: now[0])
    measure(backlog, LARGE, 1.0)
    backlog.check(0.001, "bulk")  # nothing waits: a picture may be quicker than all so far
    for _ in range(5):
        backlog.admit(work(LARGE), 100.0, "interactive")
    backlog.check(100.0, "interactive")
    backlog.check(1.5, "interactive")  # goes before the others
    with pytest.raises(BacklogTooLong):
        backlog.check(0.5, "interactive")


def test_a_batch_does_not_grow_over_a_deadline() -> None:
    now = [0.0]
    backlog = Backlog(clock=lambda: now[0])
    measure(backlog, LARGE, 1.0)
    first, second = (backlog.admit(work(LARGE), at, "interactive") for at in (1.5, 10.0))
    assert backlog.pick([second, first]) is first
    assert not backlog.may_join([first, second])
    third = backlog.admit(work(LARGE), 11.0, "interactive")
    backlog.stop([first])
    assert backlog.may_join([second, third])


def test_what_small_pictures_take_says_little_of_large_ones() -> None:
    cost = LinearCost()
    assert cost.seconds(1000) == 0
    cost.add(64 * 64, 0.2)  # cold
    cost.add(64 * 64, 0.003)
    assert cost.seconds(64 * 64) == pytest.approx(0.003)
    assert cost.seconds(12_000_000) > 1, "all of one size: in proportion"
    for _ in range(20):
        cost.add(12_000_000, 0.1)
        cost.add(64 * 64, 0.003)
    assert cost.seconds(64 * 64) == pytest.approx(0.003, rel=0.05)
    assert cost.seconds(12_000_000) == pytest.approx(0.1, rel=0.05)
    assert cost.seconds(6_000_000) == pytest.approx(0.05, rel=0.1)


def test_models_that_share_a_processor_wait_for_each_other() -> None:
    queue = Queue(clock=lambda: 0.0)
    busy, idle = Backlog(queue=queue), Backlog(queue=queue)
    measure(busy, LARGE, 1.0)
    measure(idle, LARGE, 0.1)
    for _ in range(5):
        busy.admit(work(LARGE), 100.0, "interactive")
    assert (len(busy), len(idle)) == (5, 0)
    assert idle.expected_seconds(work(LARGE)) == pytest.approx(5.1)
    with pytest.raises(BacklogTooLong):  # it would be late, or they would
        idle.check(0.05, "interactive")
    soon = idle.admit(work(LARGE), 1.0, "interactive")
    for _ in range(9):
        busy.admit(work(LARGE), 11.0, "interactive")
    with pytest.raises(BacklogTooLong):
        idle.admit(work(LARGE), 11.5, "normal")
    assert queue.pick(list(queue.admitted)) is soon


def test_pictures_that_vary_much_by_themselves_keep_short_deadlines() -> None:
    machine = Machine(noise=0.4)
    machine.run(overload(3, 40, (0.3, 10), [SMALL]))
    assert machine.late <= 0.03 * machine.in_time
    assert machine.ideal_seconds >= 0.88 * machine.busy_seconds


@dataclass
class Gateway:
    """One of several in front of a worker, of which it sees its own pictures alone."""

    backlog: Backlog
    waiting: list[Admitted] = field(default_factory=list)
    sent: int = 0


def through_gateways(arrivals: "list[tuple[float, Work, float, str]]", count: int, noise: float, seed: int) -> tuple[float, int, int]:
    """A worker that computes first come, first served, behind gateways that each have two pictures there at most.

    Returns the seconds at its end, and how many pictures were in time and late.
    """
    rng, now = random.Random(seed), 0.0
    gateways = [Gateway(Backlog(clock=lambda: now)) for _ in range(count)]
    for gateway in gateways:
        measure(gateway.backlog, SMALL, SECONDS[SMALL])
    queue: deque[tuple[Gateway, Admitted]] = deque()
    free_at, in_time, late = 0.0, 0, 0
    coming = deque(arrivals)

    def send(gateway: Gateway) -> None:
        while gateway.waiting and gateway.sent < 2:
            promise = gateway.backlog.pick(gateway.waiting)
            gateway.waiting.remove(promise)
            gateway.backlog.start([promise])
            gateway.sent += 1
            queue.append((gateway, promise))

    while coming or queue:
        while coming and (coming[0][0] <= free_at or not queue):
            at, asked, seconds, priority = coming.popleft()
            now = max(now, at)
            gateway = rng.choice(gateways)
            try:
                promise = gateway.backlog.admit(asked, at + seconds, priority)
            except BacklogTooLong:
                continue
            gateway.backlog.read(promise, 0.0)
            gateway.waiting.append(promise)
            if not queue:
                free_at = now
            send(gateway)
        if not queue:
            continue
        gateway, promise = queue.popleft()
        now = free_at = max(now, free_at) + SECONDS[SMALL] * max(0.3, rng.gauss(1, noise))
        gateway.sent -= 1
        measure(gateway.backlog, SMALL, SECONDS[SMALL])
        gateway.backlog.finish([promise])
        on_time = now <= promise.deadline
        in_time, late = in_time + on_time, late + (not on_time)
        for each in gateways:
            send(each)
    return now, in_time, late


@pytest.mark.parametrize(("times", "deadlines"), [(2, (4.0, 4.0)), (3, (0.5, 8.0))])
def test_gateways_that_share_a_worker_see_it_as_slower_and_keep_their_promises(times: float, deadlines: tuple[float, float]) -> None:
    seconds, in_time, late = through_gateways(overload(times, 40, deadlines, [SMALL]), 2, 0.1, 3)
    assert in_time * SECONDS[SMALL] >= 0.9 * seconds
    assert late <= 0.015 * in_time
