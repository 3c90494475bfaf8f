"""The service of one checkout against that of another, in one run: processor time and seconds per picture, and their ratio.

    python benchmarks/against.py OTHER [--rounds N] [--only CASE]

OTHER is a checkout of an older commit, with its operator built there (`python setup.py build_ext --inplace`). Both run with this
environment's packages. Each computes the same pictures, bare and over HTTP, in processes of its own that take turns, one picture each;
processor time counts all threads of a process, so that it holds on a busy machine too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx

from service import BARE, ROOT, SERVE, picture_of

TICKS = os.sysconf("SC_CLK_TCK")
Ask = Callable[[], tuple[float, float]]
"""Does one picture: processor seconds, seconds."""


def environment(checkout: Path) -> dict[str, str]:
    """Variables with which Python imports the packages of a checkout."""
    return os.environ | {"PYTHONPATH": f"{checkout / 'model'}:{checkout / 'service'}"}


def processor_seconds(pid: int) -> float:
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def bare(checkout: Path, checkpoint: Path, picture: Path) -> Iterator[Ask]:
    """The predictor alone."""
    command = [sys.executable, "-c", BARE, str(checkpoint), str(picture), "float32", ""]
    with subprocess.Popen(command, env=environment(checkout), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "ready\n"

        def ask() -> tuple[float, float]:
            before = processor_seconds(process.pid)
            stdin.write("\n")
            stdin.flush()
            seconds = float(stdout.readline())
            return processor_seconds(process.pid) - before, seconds

        yield ask
        stdin.close()


@contextmanager
def http(checkout: Path, checkpoint: Path, picture: Path) -> Iterator[Ask]:
    """`proscale serve`, asked over a connection that is kept."""
    variables = environment(checkout) | {"PROSCALE_CHECKPOINT": str(checkpoint), "PROSCALE_DEADLINE_MS": "3600000"}
    with subprocess.Popen([sys.executable, "-c", SERVE], env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            content = picture.read_bytes()
            with httpx.Client(timeout=300, headers={"content-type": "image/jpeg"}) as client:

                def ask() -> tuple[float, float]:
                    before, started = processor_seconds(process.pid), time.perf_counter()
                    response = client.post(f"{url}/segment", content=content)
                    seconds = time.perf_counter() - started
                    assert response.status_code == 200, response.text
                    return processor_seconds(process.pid) - before, seconds

                yield ask
        finally:
            process.terminate()


def random_model(other: Path, folder: Path) -> Path:
    """Swin-T of random weights, as the other checkout writes it: the older one of two does not read what the newer one writes."""
    code = "import pathlib, sys; from service import random_model; random_model(pathlib.Path(sys.argv[1]))"
    variables = environment(other)
    variables["PYTHONPATH"] += f":{other / 'benchmarks'}"
    subprocess.run([sys.executable, "-c", code, str(folder)], env=variables, check=True)
    return folder / "model"


def measure(other: Path, checkpoint: Path, picture: Path, rounds: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Medians (processor seconds, seconds) per picture, by way and checkout, after one picture each to warm up."""
    with ExitStack() as stack:
        asks = {
            (way, name): stack.enter_context(run(checkout, checkpoint, picture))
            for way, run in (("predictor", bare), ("http", http))
            for name, checkout in (("this", ROOT), ("other", other))
        }
        runs: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in asks}
        for i in range(rounds + 1):
            for key, ask in asks.items():
                done = ask()
                if i:
                    runs[key].append(done)
    medians = {key: (median(cpu for cpu, _ in each), median(seconds for _, seconds in each)) for key, each in runs.items()}
    return {way: {name: medians[way, name] for name in ("this", "other")} for way in ("predictor", "http")}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="the case whose name contains this")
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    if not list((other / "model/proscale/ops").glob("_native*")):
        parser.error(f"{other} has no compiled operator; run there: {sys.executable} setup.py build_ext --inplace")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases: dict[str, Callable[[], tuple[Path, Path]]] = {
            "embedded model, nuclei.jpg": lambda: (ROOT / "model/proscale/data/default", ROOT / "examples" / "nuclei.jpg"),
            "Swin-T, 133 classes, 800x1216": lambda: (random_model(other, folder), picture_of(800, 1216, folder)),
        }
        for case, make in cases.items():
            if arguments.only in case:
                print(f"\n{case}\n{'':<12}{'processor s':>12}{'other':>9}{'ratio':>7}{'seconds':>10}{'other':>9}{'ratio':>7}")
                for way, found in measure(other, *make(), arguments.rounds).items():
                    (cpu, seconds), (cpu_other, seconds_other) = found["this"], found["other"]
                    print(
                        f"{way:<12}{cpu:>12.3f}{cpu_other:>9.3f}{cpu / cpu_other:>7.2f}"
                        f"{seconds:>10.3f}{seconds_other:>9.3f}{seconds / seconds_other:>7.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
