"""Sends mutated pictures and requests to a real server and tells what it did: no fault of its own, no crash, nothing left open.

    python benchmarks/fuzz.py [--count N] [--seed S] [--from N] [--out FILE]

Attempts follow from the seed and their number alone: what fails can be sent again with `--from NUMBER --count 1`. The server computes with
a small model of random weights in a process of its own. Exit status 1 when an answer is an error of the server's own (any 5xx but
503 and 504), when a request is never answered, when the process ends or its log holds a traceback, when descriptors, threads or
temporary files stay behind, or when resident memory still grows by more than 5% in the second half.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network  # noqa: E402
from tests.service.fuzz.campaign import AT_ONCE, descriptors, files_below, run, settles, threads  # noqa: E402
from tests.service.pictures import blob, encoded  # noqa: E402

from proscale.checkpoints.model_folder import save_folder  # noqa: E402

SERVE = "from proscale_service.cli import serve; serve(['--port', '0', '--log-level', 'error'])"
SAMPLES = 10
"""Looks at the memory, evenly spaced over the attempts."""
GROWTH = 1.05
ENDS_S = 120.0
SETTINGS = {"PROSCALE_UPLOAD_TIMEOUT_S": "1", "PROSCALE_THREADS": "1", "PROSCALE_MAX_PIXELS": "1000000", "PROSCALE_KEEP_ALIVE_S": "2"}


def main() -> None:
    """Attack, print, write; exit 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int, default=0, help="number of the first attempt")
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report, wrong = attack(Path(folder), arguments.seed, range(arguments.first, arguments.first + arguments.count))
    print(json.dumps(report, indent=1))
    for line in wrong:
        print(f"Wrong: {line}", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(int(bool(wrong)))


def attack(folder: Path, seed: int, numbers: range) -> tuple[dict[str, object], list[str]]:
    """Figures, and what is wrong in words."""
    (temporary := folder / "temporary").mkdir()
    save_folder(folder / "model", SMALL_CONFIG, SMALL_CATEGORIES, small_network().state_dict())
    environment = os.environ | SETTINGS | {"PROSCALE_CHECKPOINT": str(folder / "model"), "TMPDIR": str(temporary)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    wrong: list[str] = []
    memory: list[float] = []
    with process, tqdm(total=len(numbers), unit="request") as bar:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[-1]
            run(url, seed + 1, range(200))  # what happens once per process
            before = descriptors(process.pid), threads(process.pid), rss_mb(process.pid)
            started = time.monotonic()

            def done() -> None:
                bar.update()
                if bar.n * SAMPLES // len(numbers) > len(memory):
                    memory.append(rss_mb(process.pid))
                    bar.set_postfix_str(f"{memory[-1]:.0f} MB")

            result = run(url, seed, numbers, done)
            seconds = time.monotonic() - started
            wrong += [f"attempt {number}: {what}: {data!r}" for number, what, data in result.wrong]
            if process.poll() is not None:
                return {"counts": counted(result.counts)}, [*wrong, f"the server ended with {process.poll()}"]
            after = settles(lambda: descriptors(process.pid), before[0]), threads(process.pid)
            good = httpx.post(f"{url}/segment", content=encoded(blob()), headers={"content-type": "image/png"}, timeout=60)
            left = files_below(temporary)
            checks = {
                f"descriptors: {before[0]} before, {after[0]} after": after[0] <= before[0],
                f"threads: {before[1]} before, {after[1]} after": after[1] <= before[1] + AT_ONCE,
                f"temporary files: {left[:3]}": not left,
                f"resident memory in MB, evenly spaced: {memory}": max(memory) <= GROWTH * max(memory[: SAMPLES // 2]),
                f"a good picture afterwards: {good.status_code}": good.status_code == 200,
                f"the log: {(folder / 'log').read_text()[-2000:]}": "Traceback" not in (folder / "log").read_text(),
            }
            wrong += [words for words, met in checks.items() if not met]
        finally:
            process.terminate()
            try:
                process.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                wrong.append(f"the server did not end within {ENDS_S:.0f} s of SIGTERM")
    report: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
        "seed": seed,
        "attempts": len(numbers),
        "seconds": round(seconds, 1),
        "counts": counted(result.counts),
        "descriptors": [before[0], after[0]],
        "threads": [before[1], after[1]],
        "rss_mb": [round(each) for each in (before[2], *memory)],
        "wrong": len(wrong),
    }
    return report, wrong


def counted(counts: dict[int | str, int]) -> dict[str, int]:
    """By status, in order."""
    return {str(what): counts[what] for what in sorted(counts, key=str)}


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
