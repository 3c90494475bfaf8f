"""What the service costs on top of the network: bare predictor, HTTP with the engine in process, HTTP through Triton, in one run;
and the predictor in bfloat16 and compiled for the picture's size.

    python benchmarks/service.py [--rounds N] [--only CASE] [--out FILE]

Every contender is a process of its own; they take turns, one picture each, so that what else the machine does hits all alike. Then
the two services take turns at four clients at once, who each ask again as soon as they are answered. Two
cases: a Swin-T network of random weights with 133 classes at 800x1216, and the embedded model on a picture of its own kind. The bare
predictor is given the decoded picture, the others a JPEG file over loopback. Triton needs `make triton-env`; without, it is left out.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.deploy.triton.server import ENVIRONMENT, TritonServer  # noqa: E402

from proscale.checkpoints.model_folder import DEFAULT_FOLDER, save_folder  # noqa: E402
from proscale.config import PROSCALE, SWIN_T, ModelConfig  # noqa: E402
from proscale.labels import Category  # noqa: E402
from proscale.network import SegmentationNetwork  # noqa: E402
from proscale.ops import native  # noqa: E402

SERVE = "from proscale_service.cli import serve; serve(['--port', '0', '--log-level', 'error'])"
BARE = """
import sys, time
import numpy as np
from PIL import Image
from proscale.allocator import keep_freed_memory
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
keep_freed_memory()  # as all the others do
picture = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
precision, compiled = sys.argv[3:]
predictor = Predictor.load(sys.argv[1], precision=precision, compile_for=[picture.shape[:2]] if compiled else [])
print("ready", flush=True)
for line in sys.stdin:
    started = time.perf_counter()
    predictor.segment([picture], [SegmentationOptions()])
    print(time.perf_counter() - started, flush=True)
"""
STAGES = ("decode", "queue", "preprocess", "infer", "postprocess", "encode")
CLIENTS = 4

Ask = Callable[[], dict[str, float]]
"""Does one picture; seconds by name, `total` among them."""


@contextmanager
def bare(checkpoint: Path, picture: Path, precision: str = "float32", compiled: str = "") -> Iterator[Ask]:
    """The predictor alone; `compiled`, if not empty, for the picture's size."""
    command = [sys.executable, "-c", BARE, str(checkpoint), str(picture), precision, compiled]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "ready\n"

        def ask() -> dict[str, float]:
            stdin.write("\n")
            stdin.flush()
            return {"total": float(stdout.readline())}

        yield ask
        stdin.close()


@contextmanager
def http(picture: Path, **environment: str) -> Iterator[Ask]:
    """`proscale serve`, asked over a connection that is kept."""
    with subprocess.Popen([sys.executable, "-c", SERVE], env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            content = picture.read_bytes()
            with httpx.Client(timeout=300, headers={"content-type": "image/jpeg"}) as client:

                def ask() -> dict[str, float]:
                    started = time.perf_counter()
                    response = client.post(f"{url}/segment", content=content)
                    seconds = time.perf_counter() - started
                    assert response.status_code == 200, response.text
                    return {"total": seconds} | {stage: ms / 1e3 for stage, ms in response.json()["timings_ms"].items()}

                yield ask
        finally:
            process.terminate()


def together(ask: Ask, each: int = 3) -> tuple[float, list[float]]:
    """Pictures per second, and the seconds that each took, with `CLIENTS` clients at once."""

    def client(_: int) -> list[float]:
        return [ask()["total"] for _ in range(each)]

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        seconds = [second for one in pool.map(client, range(CLIENTS)) for second in one]
    return len(seconds) / (time.perf_counter() - started), seconds


def measure(checkpoint: Path, picture: Path, rounds: int, folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Seconds of one picture alone, medians over the rounds after one to warm up, by contender and stage; then what clients get who ask
    at once: pictures per second, median of the turns, and seconds of all pictures."""
    with ExitStack() as stack:
        asks = {
            "predictor": stack.enter_context(bare(checkpoint, picture)),
            "predictor, compiled": stack.enter_context(bare(checkpoint, picture, compiled="yes")),
            "predictor, bfloat16": stack.enter_context(bare(checkpoint, picture, "bfloat16")),
            "predictor, bfloat16, compiled": stack.enter_context(bare(checkpoint, picture, "bfloat16", "yes")),
            "http, in process": stack.enter_context(http(picture, PROSCALE_CHECKPOINT=str(checkpoint))),
        }
        if (ENVIRONMENT / "done").exists():
            server = TritonServer(folder, {"PROSCALE_CHECKPOINT": str(checkpoint)})
            server.start()
            stack.callback(server.kill)
            asks["http, triton"] = stack.enter_context(http(picture, PROSCALE_ENGINE="triton", PROSCALE_TRITON_URL=server.url))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in asks}
        for i in range(rounds + 1):
            for name, ask in asks.items():
                seconds = ask()
                if i:
                    runs[name].append(seconds)
        turns: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in asks if name.startswith("http")}
        for i in range(max(3, rounds // 5) + 1):
            for name, turn in turns.items():
                measured = together(asks[name])
                if i:  # batches of every size have been computed once
                    turn.append(measured)
    alone = {name: {key: median(run[key] for run in each) for key in each[0]} for name, each in runs.items()}
    at_once = {}
    for name, turn in turns.items():
        seconds = sorted(second for _, each in turn for second in each)  # type: ignore[assignment]
        p95 = seconds[round(0.95 * (len(seconds) - 1))]
        at_once[name] = {
            "pictures_per_s": median(rate for rate, _ in turn),
            "median_s": median(seconds),  # type: ignore[type-var]
            "p95_s": p95,
            "max_s": seconds[-1],
        }
    return alone, at_once  # type: ignore[return-value]


def random_model(folder: Path) -> Path:
    """A model folder: Swin-T, 133 classes, random weights."""
    torch.manual_seed(0)
    config = ModelConfig("benchmark", 133, SWIN_T, PROSCALE)
    categories = [Category(i + 1, f"label {i + 1}", i < 80) for i in range(133)]
    save_folder(folder / "model", config, categories, SegmentationNetwork(config).state_dict())
    return folder / "model"


def picture_of(height: int, width: int, folder: Path) -> Path:
    """A scene as JPEG."""
    path = folder / f"{height}x{width}.jpg"
    with Image.open(ROOT / "examples" / "scene.png") as image:
        image.convert("RGB").resize((width, height)).save(path, quality=90)
    return path


def record(case: str, medians: dict[str, dict[str, float]], at_once: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What goes into the report."""
    total = {name: seconds["total"] for name, seconds in medians.items()}
    ratios = {"in_process_over_predictor": total["http, in process"] / total["predictor"]}
    if "http, triton" in total:
        ratios["triton_over_in_process"] = total["http, triton"] / total["http, in process"]
        rates = {name: values["pictures_per_s"] for name, values in at_once.items()}
        ratios["triton_pictures_per_s_over_in_process"] = rates["http, triton"] / rates["http, in process"]
    values = {
        key: {name: {part: round(s, 5) for part, s in seconds.items()} for name, seconds in measured.items()}
        for key, measured in (("seconds", medians), (f"{CLIENTS} clients at once", at_once))
    }
    return {"case": case} | values | {name: round(ratio, 3) for name, ratio in ratios.items()}


def table(medians: dict[str, dict[str, float]], at_once: dict[str, dict[str, float]]) -> str:
    """Milliseconds and pictures per second as text."""
    lines = [f"{'ms':<30}" + "".join(f"{name:>12}" for name in ("total", *STAGES))]
    for name, seconds in medians.items():
        cells = [f"{seconds[key] * 1e3:.1f}" if key in seconds else "" for key in ("total", *STAGES)]
        lines.append(f"{name:<30}" + "".join(f"{cell:>12}" for cell in cells))
    lines += [
        f"{name}, {CLIENTS} clients: {values['pictures_per_s']:.2f} pictures/s,"
        f" {values['median_s']:.2f} s a picture, 95% within {values['p95_s']:.2f} s, all within {values['max_s']:.2f} s"
        for name, values in at_once.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="the case whose name contains this")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    records = []  # type: ignore[var-annotated]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases: dict[str, Callable[[], tuple[Path, Path]]] = {
            "Swin-T, 133 classes, 800x1216": lambda: (random_model(folder), picture_of(800, 1216, folder)),
            "embedded model, nuclei.jpg": lambda: (DEFAULT_FOLDER, ROOT / "examples" / "nuclei.jpg"),
        }
        for case, make in cases.items():
            if arguments.only in case:
                checkpoint, picture = make()
                servers = folder / str(len(records))
                servers.mkdir()
                measured = measure(checkpoint, picture, arguments.rounds, servers)
                records.append(record(case, *measured))
                ratios = {name: value for name, value in records[-1].items() if "_over_" in name}
                print(f"\n{case}\n{table(*measured)}\n{ratios}", flush=True)
    if arguments.out:
        cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "CPU")
        report = {
            "date": datetime.date.today().isoformat(),
            "command": "python " + " ".join(sys.argv),
            "hardware": f"{cpu}, {os.cpu_count()} cores, operator {native.STATUS.cpu or 'pure torch'}",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "rounds": arguments.rounds,
            "records": records,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
