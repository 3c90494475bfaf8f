"""A random killer beside clients that ask on and on, and wait a second after a refusal: what the service holds for long.

`make soak MINUTES=60` runs it.

    python benchmarks/soak.py [--minutes M] [--triton] [--seed S] [--out FILE]

Every few seconds something goes wrong, chosen from the seed: the server is stopped for a second, its connections are cut, its model is
replaced, hundreds of connections idle; with `--triton` (needs `make triton-env`) the server is a gateway, and the worker's process or
Triton itself is killed too. The server's own process stays, so that its memory, descriptors and threads after can be compared with those
after the first minute. Exit status 1 when a request was lost or answered twice, when resident memory grew by more than 5%, or when
descriptors stayed open.
"""

import argparse
import datetime
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.deploy.triton.server import TritonServer  # noqa: E402
from tests.service.chaos import free_port  # noqa: E402
from tests.service.chaos.load import CLOSED, CUT_SHORT, LOST, TWICE, Load  # noqa: E402
from tests.service.chaos.proxy import Proxy  # noqa: E402
from tests.service.fuzz.campaign import descriptors, settles, threads  # noqa: E402

SERVE = "from proscale_service.cli import serve; serve(['--log-level', 'error'])"
PAUSE_S = (3.0, 10.0)
GROWTH = 1.05
Fault = Callable[[], object]


def main() -> None:
    """Soak, print, write; exit 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--triton", action="store_true", help="a gateway in front of a real Triton server")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        report, wrong = soak(stack, arguments)
    print(json.dumps(report, indent=1))
    for line in wrong:
        print(f"Wrong: {line}", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(int(bool(wrong)))


def soak(stack: ExitStack, arguments: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """Figures, and what is wrong in words."""
    rng, faults = random.Random(arguments.seed), dict[str, Fault]()
    port, admin = free_port(), free_port()
    settings = {"PROSCALE_PORT": str(port), "PROSCALE_ADMIN_PORT": str(admin), "PROSCALE_MODELS": "first="}
    if arguments.triton:
        server = TritonServer(Path(stack.enter_context(tempfile.TemporaryDirectory())), {})
        stack.callback(server.kill)
        server.start()
        behind = stack.enter_context(Proxy(server.grpc_port))
        settings |= {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": f"127.0.0.1:{behind.port}", "PROSCALE_MODELS": "first=proscale"}
        faults |= {
            "worker killed": lambda: kill_workers(server),
            "Triton killed": lambda: start_anew(server),
            "cut behind": behind.cut,
        }
    process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SERVE], env=os.environ | settings, stdout=subprocess.PIPE))
    stack.callback(process.terminate)
    assert process.stdout is not None
    process.stdout.readline()
    proxy = stack.enter_context(Proxy(port))
    source = "proscale" if arguments.triton else ""
    faults |= {
        "stopped": lambda: stop_for_a_second(process.pid),
        "cut": proxy.cut,
        "replaced": lambda: replace(admin, source),
        "idle": lambda: idle(port),
    }
    picture = (ROOT / "examples" / "nuclei.jpg").read_bytes()
    happened: list[tuple[str, float]] = []
    seconds = 60 * arguments.minutes
    wait_until_ready(port)
    with (
        Load(f"http://127.0.0.1:{proxy.port}", picture, arguments.clients, pause_s=1.0) as load,
        tqdm(total=round(seconds), unit="s") as bar,
    ):
        begun = time.monotonic()
        settle = min(60.0, seconds / 4)
        before: tuple[float, int, int] | None = None
        while (passed := time.monotonic() - begun) < seconds:
            bar.update(round(passed) - bar.n)
            time.sleep(rng.uniform(*PAUSE_S))
            name = rng.choice(sorted(faults))
            at = time.monotonic()
            faults[name]()
            happened.append((name, load.recovered_after(at, 180)))
            if before is None and passed >= settle:
                before = held(process.pid)
        ended = time.monotonic()
    before = before or held(process.pid)
    settles(lambda: descriptors(process.pid), before[1])
    return figures(arguments, load, happened, ended - begun, before, held(process.pid))


def figures(
    arguments: argparse.Namespace,
    load: Load,
    happened: list[tuple[str, float]],
    seconds: float,
    before: tuple[float, int, int],
    after: tuple[float, int, int],
) -> tuple[dict[str, object], list[str]]:
    """The report, and what is wrong in words."""
    counts = load.counts
    times = sorted(each.ended - each.began for each in load.outcomes if each.what == 200)
    cut = counts[CLOSED] + counts[CUT_SHORT]
    report: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
        "hardware": f"{processor()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}",
        "minutes": round(seconds / 60, 1),
        "requests": sum(counts.values()),
        "outcomes": {str(what): count for what, count in sorted(counts.items(), key=str)},
        # Connections that the killer cut are its own doing.
        "availability": round(counts[200] / max(1, sum(counts.values()) - cut), 5),
        "goodput_per_s": round(counts[200] / seconds, 2),
        "p99_s": round(times[min(len(times) - 1, int(0.99 * len(times)))], 3) if times else None,
        "faults": {name: sum(each == name for each, _ in happened) for name in sorted({name for name, _ in happened})},
        "worst_recovery_s": {name: round(max(s for each, s in happened if each == name), 2) for name in sorted({n for n, _ in happened})},
        "rss_mb": [round(before[0], 1), round(after[0], 1)],
        "descriptors": [before[1], after[1]],
        "threads": [before[2], after[2]],
    }
    checks = {
        f"{counts[LOST]} requests were lost, {counts[TWICE]} answered twice": not counts[LOST] and not counts[TWICE],
        f"resident memory: {before[0]:.0f} MB, then {after[0]:.0f}": after[0] <= GROWTH * before[0],
        f"descriptors: {before[1]}, then {after[1]}": after[1] <= before[1] + arguments.clients,
    }
    return report, [words for words, met in checks.items() if not met]


def kill_workers(server: TritonServer) -> None:
    """Kill the processes in which the model runs."""
    for pid in server.backend_pids():
        os.kill(pid, signal.SIGKILL)


def start_anew(server: TritonServer) -> None:
    """Kill Triton with all its processes, and start it again."""
    server.kill()
    server.start()


def stop_for_a_second(pid: int) -> None:
    """SIGSTOP, and SIGCONT a second later."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(pid, signal.SIGCONT)


def replace(admin: int, source: str) -> None:
    """Put the model anew in its own place; one that is away just now stays."""
    with suppress(httpx.HTTPError):
        httpx.put(f"http://127.0.0.1:{admin}/admin/models/first", json={"source": source}, timeout=120)


def idle(port: int) -> None:
    """Hundreds of connections that say nothing for a second."""
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        time.sleep(1.0)


def wait_until_ready(port: int) -> None:
    """Until the server serves."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                return
        time.sleep(0.2)
    sys.exit("the server does not become ready")


def held(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, descriptors and threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    return rss, descriptors(pid), threads(pid)


def processor() -> str:
    """The processor's name."""
    return next((text.split(":")[1].strip() for text in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in text), "CPU")


if __name__ == "__main__":
    main()
