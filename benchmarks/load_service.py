"""What the service does under more work than it can do: goodput, deadlines and refusals of an open-loop client in another process.

    python benchmarks/load_service.py [--quick] [--only NAME] [--seconds S] [--threads N] [--out FILE]

The capacity is measured first, by clients that each ask again as soon as they are answered. Then pictures are sent at 0.5, 1, 2, 5
and 20 times that rate, whether earlier ones are answered or not. Cases: one deadline and one picture; deadlines mixed from 300 ms to
30 s; pictures mixed from 64x64 to 12 megapixels; through Triton with two gateways (needs `make triton-env`; left out without it).
Before and after every load the capacity is measured anew, because other programs on the machine change it: goals are ratios to the
mean of the two. The client computes on the service's own processors: of the capacity, the share of them that it took is left out of the
goal. Exit status 1 when a goal is missed:

- goodput, pictures answered before their deadline, at least 90% of what is left of the capacity (of the offer, where that is less);
- 99% of the answers of accepted pictures before their deadline, and less than 1% answered 504;
- 99% of the refusals within 20 ms of what /health/live takes the same client at the same time.
"""

import argparse
import asyncio
import datetime
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from lean_client import LeanClient
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.deploy.triton.server import ENVIRONMENT, TritonServer  # noqa: E402

SERVE = "from proscale_service.cli import serve; serve(['--port', '0', '--log-level', 'error'])"
TIMES = (0.5, 1.0, 2.0, 5.0, 20.0)
CLIENTS = 4
PATIENCE_S = 120.0
HEADING = " offer  pictures  capacity client   goodput ratio p99/dl  taken  504   429  p50ms   p99ms   live RSS MB"
GOODPUT, LATE, ANSWER_504, REFUSAL_MS = 0.9, 0.01, 0.01, 20.0


@dataclass(frozen=True)
class Picture:
    """What is sent."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Answer:
    """What became of one picture. Times in seconds."""

    status: int
    seconds: float
    deadline_s: float


@dataclass(frozen=True)
class Row:
    """One load."""

    offered: float
    """Pictures per second."""
    offered_until_done: float
    """Per second until the last answer."""
    times: float
    capacity: float
    """Pictures per second, mean of before and after."""
    client: float
    """Share of the machine's processor time that the client took."""
    goodput: float
    p99_of_deadline: float
    """99th percentile of the accepted pictures' time over their deadline."""
    refused: int
    refusal_p50_ms: float
    refusal_p99_ms: float
    live_p99_ms: float
    """Of /health/live at the same time: what client, network and a busy machine take by themselves."""
    late_504: int
    accepted: int
    other: int
    rss_mb: float

    def misses(self) -> list[str]:
        """Goals that are missed, in words."""
        due = GOODPUT * min(self.capacity * (1 - self.client), self.offered_until_done)
        goals = {
            f"goodput {self.goodput:.2f}/s is below {due:.2f}/s": self.goodput >= due,
            f"p99 of the accepted is {self.p99_of_deadline:.2f} of the deadline": self.p99_of_deadline <= 1,
            f"{self.late_504} of {self.accepted} accepted are 504": self.late_504 <= ANSWER_504 * max(1, self.accepted),
            f"p99 of refusals is {self.refusal_p99_ms:.0f} ms": self.refusal_p99_ms - self.live_p99_ms <= REFUSAL_MS,
            f"{self.other} other answers": not self.other,
        }
        return [words for words, met in goals.items() if not met]


def percentile(values: Sequence[float], share: float) -> float:
    """0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


@contextmanager
def serving(**environment: str) -> Iterator[tuple[str, int]]:
    """`proscale serve`: its URL and process id."""
    with subprocess.Popen([sys.executable, "-c", SERVE], env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.terminate()
            process.wait(60)


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


async def ask(client: LeanClient, url: str, picture: Picture, deadline_s: float) -> Answer:
    """Send one picture and wait for its answer."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            status = await client.request("POST", f"{url}/segment?deadline_ms={deadline_s * 1e3:.0f}", picture.content)
    except OSError:  # TimeoutError is one
        status = 0
    return Answer(status, time.perf_counter() - started, deadline_s)


async def capacity(client: LeanClient, urls: Sequence[str], pictures: Sequence[Picture], seconds: float) -> float:
    """Pictures per second of a closed loop."""
    rng, done, end = random.Random(1), 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            answer = await ask(client, urls[number % len(urls)], rng.choice(pictures), 60.0)
            done += answer.status == 200

    started = time.perf_counter()
    await asyncio.gather(*map(one, range(CLIENTS)))
    return done / (time.perf_counter() - started)


async def ping(client: LeanClient, url: str, milliseconds: list[float]) -> None:
    """Ask /health/live ten times a second until cancelled."""
    while True:
        started = time.perf_counter()
        await client.request("GET", f"{url}/health/live")
        milliseconds.append((time.perf_counter() - started) * 1e3)
        await asyncio.sleep(0.1)


async def offer(
    client: LeanClient, urls: Sequence[str], pictures: Sequence[Picture], rate: float, seconds: float, deadlines: tuple[float, float]
) -> tuple[list[Answer], float]:
    """Send so many pictures per second whatever becomes of them. Returns the answers, and the seconds until the last useful one."""
    rng, tasks = random.Random(2), []
    low, high = deadlines
    started = time.perf_counter()
    at = started
    while at - started < seconds:
        at += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        deadline = low * (high / low) ** rng.random()
        tasks.append(asyncio.create_task(ask(client, rng.choice(urls), rng.choice(pictures), deadline)))
    answers = await asyncio.gather(*tasks)
    return answers, time.perf_counter() - started


async def measure(
    urls: Sequence[str], pid: int, pictures: Sequence[Picture], deadlines: tuple[float, float], times: Sequence[float], seconds: float
) -> list[Row]:
    """A row per load."""
    rows = []
    async with LeanClient() as client:
        await capacity(client, urls, pictures, min(5.0, seconds))  # what happens once per process
        before = await capacity(client, urls, pictures, seconds / 2)
        for by in times:
            rate = by * before
            live: list[float] = []
            pinging = asyncio.create_task(ping(client, urls[0], live))
            spent = time.process_time()
            answers, wall = await offer(client, urls, pictures, rate, seconds, deadlines)
            spent = time.process_time() - spent
            pinging.cancel()
            after = await capacity(client, urls, pictures, seconds / 2)
            accepted = [each for each in answers if each.status in (200, 504)]
            good = [each for each in answers if each.status == 200 and each.seconds <= each.deadline_s]
            refusals = [each.seconds * 1e3 for each in answers if each.status == 429]
            rows.append(
                Row(
                    offered=len(answers) / seconds,
                    offered_until_done=len(answers) / wall,
                    times=by,
                    capacity=(before + after) / 2,
                    client=spent / wall / (os.cpu_count() or 1),
                    goodput=len(good) / wall,
                    p99_of_deadline=percentile([each.seconds / each.deadline_s for each in accepted], 0.99),
                    refused=len(refusals),
                    refusal_p50_ms=percentile(refusals, 0.5),
                    refusal_p99_ms=percentile(refusals, 0.99),
                    live_p99_ms=percentile(live, 0.99),
                    late_504=sum(each.status == 504 for each in answers),
                    accepted=len(accepted),
                    other=sum(each.status not in (200, 429, 504) for each in answers),
                    rss_mb=rss_mb(pid),
                )
            )
            print(line(rows[-1]), flush=True)
            before = after
    return rows


def line(row: Row) -> str:
    """A row as text."""
    return (
        f"{row.times:5.1f}x {row.offered:7.1f}/s {row.capacity:7.2f}/s {row.client:6.1%} {row.goodput:7.2f}/s"
        f" {row.goodput / row.capacity:5.2f} {row.p99_of_deadline:6.2f} {row.accepted:6d} {row.late_504:4d} {row.refused:6d}"
        f" {row.refusal_p50_ms:6.1f} {row.refusal_p99_ms:7.1f} {row.live_p99_ms:6.1f}"
        f" {row.rss_mb:6.0f}  {'ok' if not row.misses() else '; '.join(row.misses())}"
    )


def pictures_of(sizes: Sequence[tuple[int, int]]) -> list[Picture]:
    """A photograph of cells at these sizes (height, width), as JPEG."""
    pictures = []
    for height, width in sizes:
        buffer = io.BytesIO()
        with Image.open(ROOT / "examples" / "nuclei.jpg") as image:
            image.convert("RGB").resize((width, height)).save(buffer, "JPEG", quality=85)
        pictures.append(Picture(f"{height}x{width}", buffer.getvalue()))
    return pictures


def main() -> None:
    """Measure, print, write; exit 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 s a load, at 2 and 5 times the capacity alone")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seconds", type=float, help="of one load; default: 20")
    parser.add_argument("--threads", default="", help="of the network; 1 where other programs are busy too")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seconds = arguments.seconds or (5.0 if arguments.quick else 20.0)
    times = (2.0, 5.0) if arguments.quick else TIMES
    one = [Picture("nuclei.jpg", (ROOT / "examples" / "nuclei.jpg").read_bytes())]
    mixed = pictures_of([(64, 64), (383, 512), (768, 1024), (1536, 2048), (3000, 4000)])
    cases: dict[str, tuple[str, list[Picture], tuple[float, float]]] = {
        "in process, deadline 4 s": ("in_process", one, (4.0, 4.0)),
        "in process, deadlines 0.3 to 30 s": ("in_process", one, (0.3, 30.0)),
        "in process, 64x64 to 12 MP, deadline 4 s": ("in_process", mixed, (4.0, 4.0)),
        "Triton, two gateways, deadline 4 s": ("triton", one, (4.0, 4.0)),
    }
    records: list[dict[str, Any]] = []
    missed = False
    for name, (engine, pictures, deadlines) in cases.items():
        if arguments.only not in name or (engine == "triton" and not (ENVIRONMENT / "done").exists()):
            continue
        with ExitStack() as stack:
            if engine == "triton":
                server = TritonServer(Path(stack.enter_context(tempfile.TemporaryDirectory())), {"PROSCALE_THREADS": arguments.threads})
                server.start()
                stack.callback(server.kill)
                settings = {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": server.url}
                served = [stack.enter_context(serving(**settings)) for _ in range(2)]
            else:
                served = [stack.enter_context(serving(PROSCALE_THREADS=arguments.threads))]
            print(f"\n{name}\n{HEADING}", flush=True)
            rows = uvloop.run(measure([url for url, _ in served], served[0][1], pictures, deadlines, times, seconds))
        missed = missed or any(row.misses() for row in rows)
        records.append({"case": name, "rows": [asdict(row) for row in rows]})
    if arguments.out:
        cpu = next((text.split(":")[1].strip() for text in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in text), "CPU")
        report = {
            "date": datetime.date.today().isoformat(),
            "command": "python " + " ".join(sys.argv),
            "hardware": f"{cpu}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}",
            "records": records,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
