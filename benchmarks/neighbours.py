"""What busy neighbours and a processor quota do to pictures per second: `.venv/bin/python benchmarks/neighbours.py`.

The embedded model computes `examples/nuclei.jpg` with one thread and with more, for each way in which OpenMP's threads may wait for each
other (GOMP_SPINCOUNT: turns of a loop before a thread sleeps; "default" leaves it to the library). Beside it run no, one, two or four
processes that do nothing but use a processor; in the last condition all threads share a quota of 1.5 processors (a control group; needs the
right to make one). Every contender is a process of its own; they take turns in every condition. Medians of the rounds; where there are no
neighbours also the best round, the nearest to a quiet machine.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from processor import processor
from tqdm import tqdm

GROUPS = Path("/sys/fs/cgroup/cpu") if Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists() else Path("/sys/fs/cgroup")
PERIOD_US = 100_000
NEIGHBOURS = (0, 1, 2, 4)
BEST = "0 neighbours, best round"


def compute(threads: int) -> None:
    """Serve one contender: count pictures for as many seconds as each line of standard input says."""
    from proscale.allocator import keep_freed_memory
    from proscale.predictor import Predictor
    from proscale.results import SegmentationOptions

    keep_freed_memory()
    torch.set_num_threads(threads)
    image = np.asarray(Image.open(Path(__file__).parents[1] / "examples/nuclei.jpg").convert("RGB"))
    predictor, options = Predictor.load(), SegmentationOptions()
    predictor.segment([image], [options])
    print("ready", flush=True)
    for line in sys.stdin:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < float(line):
            predictor.segment([image], [options])
            count += 1
        print(count / (time.perf_counter() - begin), flush=True)


@dataclass
class Contender:
    """A process that computes, and its pictures per second by condition."""

    threads: int
    waiting: str
    process: "subprocess.Popen[str]"
    rates: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def start(cls, threads: int, waiting: str) -> Iterator["Contender"]:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
        }
        if waiting != "default":
            environment["GOMP_SPINCOUNT"] = waiting
        command = [sys.executable, __file__, "--contender", str(threads)]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield cls(threads, waiting, process)
            assert process.stdin is not None
            process.stdin.close()

    def run(self, condition: str, seconds: float) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.rates.setdefault(condition, []).append(float(self.process.stdout.readline()))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many neighbours. They end with this process, however it ends."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    neighbours = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.send_signal(signal.SIGKILL)
            neighbour.wait()


@contextmanager
def quota(processors: float, pids: Sequence[int]) -> Iterator[bool]:
    """A control group that lends all of `pids` so many processors; False where it cannot be made."""
    group = GROUPS / f"proscale-neighbours-{os.getpid()}"
    try:
        group.mkdir()
        budget = round(processors * PERIOD_US)
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(budget))
        else:
            (group / "cpu.max").write_text(f"{budget} {PERIOD_US}")
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        print(f"no quota: {error}")
        with suppress(OSError):
            group.rmdir()
        yield False
        return
    try:
        yield True
    finally:
        for pid in pids:
            with suppress(OSError):
                (GROUPS / "cgroup.procs").write_text(str(pid))
        with suppress(OSError):
            group.rmdir()


def measure(args: argparse.Namespace) -> Iterator[list[Contender]]:
    """Every contender in every condition; what is known so far after every round."""
    with ExitStack() as stack:
        pairs = [(1, "default"), *((threads, waiting) for threads in args.threads for waiting in args.waiting)]
        contenders = [stack.enter_context(Contender.start(*pair)) for pair in pairs]
        conditions: list[int | None] = [*args.neighbours, *([] if args.no_quota else [None])]
        with tqdm(total=args.rounds * len(conditions) * len(contenders), unit="run", disable=None) as progress:
            for _ in range(args.rounds):
                for condition in conditions:
                    pids = [contender.process.pid for contender in contenders]
                    with busy(condition) if condition is not None else quota(1.5, pids) as possible:
                        if possible is False:
                            continue
                        name = "quota of 1.5" if condition is None else f"{condition} neighbours"
                        for contender in contenders:
                            contender.run(name, args.seconds)
                            progress.update()
                yield contenders


def summary(contenders: list[Contender]) -> list[dict[str, float]]:
    """Pictures per second by condition, one entry per contender: medians, and without neighbours the best round."""
    found = []
    for contender in contenders:
        medians = {condition: statistics.median(rates) for condition, rates in contender.rates.items()}
        quiet = contender.rates.get("0 neighbours")
        found.append({**({BEST: max(quiet)} if quiet else {}), **medians})
    return found


def write(path: Path, contenders: list[Contender], load: float) -> None:
    """The JSON, whole after every round, so that an interruption loses one round alone."""
    about = {"date": time.strftime("%Y-%m-%d"), "hardware": processor(), "torch": torch.__version__, "load_average_before": load}
    about |= {"command": " ".join(["python", *sys.argv]), "rounds": len(next(iter(contenders[0].rates.values())))}
    about |= {"what": "pictures per second, embedded model, examples/nuclei.jpg, medians"}
    rows = [
        {"threads": contender.threads, "waiting": contender.waiting, "pictures_per_second": {c: round(r, 3) for c, r in rates.items()}}
        for contender, rates in zip(contenders, summary(contenders), strict=True)
    ]
    path.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1])
    parser.add_argument("--waiting", nargs="+", default=["default", "0", "1000", "10000", "100000"], help="values of GOMP_SPINCOUNT")
    parser.add_argument("--neighbours", type=int, nargs="+", default=list(NEIGHBOURS))
    parser.add_argument("--no-quota", action="store_true", help="leave the control group out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one run")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--contender", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        compute(args.contender)
        return
    load, contenders = os.getloadavg()[0], list[Contender]()
    for contenders in measure(args):
        if args.out:
            write(args.out, contenders, load)
    rates = summary(contenders)
    print("| threads, turns before sleep | " + " | ".join(rates[0]) + " |\n|" + "---|" * (1 + len(rates[0])))
    for contender, row in zip(contenders, rates, strict=True):
        cells = (f"{rate:.2f} ({rate / rates[0][condition]:.2f}x)" for condition, rate in row.items())
        print(f"| {contender.threads}, {contender.waiting} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
