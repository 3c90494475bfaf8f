"""How long a converted checkpoint takes to serve: from starting a process to a loaded network, and to a server that is ready.

    python benchmarks/load.py [--repeat N] [--json FILE]

A Swin-T Mask2Former of random weights (about 190 MB) is written in detectron2's layout, converted, and loaded by fresh processes.
Each line gives the least and the median of N wall times, and the median of the processes' own CPU time: on a machine that is busy
with other things the wall time says how busy, the CPU time what the load costs.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.detectron2_names import to_detectron2
from proscale.checkpoints.write_folders import write
from proscale.config import MASK2FORMER, SWIN_T, ModelConfig
from proscale.network import SegmentationNetwork

READY_TIMEOUT_S = 120
LOAD = "import sys; from proscale.predictor import Predictor; Predictor.load(sys.argv[1])"
IMPORT = "import proscale.predictor"
SERVE = "from proscale_service.cli import serve; serve(['--port', '0'])"

Run = Callable[[], None]


def make_checkpoint(folder: Path) -> Path:
    """A model folder that went through conversion."""
    config = ModelConfig("benchmark", 133, SWIN_T, MASK2FORMER)
    save_file(to_detectron2(SegmentationNetwork(config).state_dict()), folder / "model_final.safetensors")
    started = time.perf_counter()
    write(convert(str(folder / "model_final.safetensors"), Request()), folder / "converted")
    print(f"converted in {time.perf_counter() - started:.2f} s")
    return folder / "converted"


def python(code: str, *arguments: str) -> Run:
    """Run code in a fresh interpreter."""

    def run() -> None:
        subprocess.run([sys.executable, "-c", code, *arguments], check=True)

    return run


def server(checkpoint: Path) -> Run:
    """Start the server without warm-up, wait until it says that it serves, stop it."""
    environment = os.environ | {"PROSCALE_CHECKPOINT": str(checkpoint), "PROSCALE_WARMUP": ""}

    def run() -> None:
        process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("Serving on "), line
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(READY_TIMEOUT_S)
            process.stdout.close()

    return run


def measure(run: Run, repeat: int) -> dict[str, float]:
    """Least and median wall seconds, and median CPU seconds of the children."""
    walls, cpus = [], []
    for _ in range(repeat):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        run()
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"least_s": round(min(walls), 3), "median_s": round(median(walls), 3), "cpu_s": round(median(cpus), 3)}


def main() -> None:
    """Print a table; with --json also write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(Path(folder))
        size = (checkpoint / "model.safetensors").stat().st_size / 1e6
        print(f"{size:.0f} MB of weights, least / median wall seconds, median CPU seconds of {options.repeat} fresh processes")
        runs = {
            "import torch and proscale": python(IMPORT),
            "the same, and load the checkpoint": python(LOAD, str(checkpoint)),
            "proscale serve, until it serves (no warm-up)": server(checkpoint),
        }
        results = {}
        for name, run in runs.items():
            results[name] = measure(run, options.repeat)
            print(f"{name:<46}{results[name]['least_s']:8.2f}{results[name]['median_s']:8.2f}{results[name]['cpu_s']:8.2f}", flush=True)
    if options.json is not None:
        record = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "command": "python benchmarks/load.py " + " ".join(sys.argv[1:]),
            "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.processor() or platform.system()}",
            "load_average": os.getloadavg()[0],
            "torch": torch.__version__,
            "weights_mb": round(size),
            "results": results,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
