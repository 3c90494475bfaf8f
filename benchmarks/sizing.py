"""What a picture costs, apart for worker and gateway: the figures behind docs/sizing.md.

    python benchmarks/sizing.py [--seconds S] [--json FILE]

Worker: `Predictor` on a CPU, by threads and batch size; pictures per second, and multiply-accumulates per second and thread.
Gateway: the HTTP service in a process of its own whose engine hands out one stored answer, so that what remains is what a gateway does:
read, decode, queue, write JSON. gRPC comes on top. Its CPU time per picture is its own `process_cpu_seconds_total`.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from proscale.config import PROSCALE, SWIN_T, ModelConfig
from proscale.labels import label_table
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

ROOT = Path(__file__).parents[1]
CONNECTIONS = 8
GATEWAY = """
import pickle, sys
from proscale.geometry import ResizedPicture
from proscale_service import app, server
from proscale_service.engines.in_process import InProcessEngine
from proscale_service.settings import Settings

class Stored:
    def __init__(self):
        with open(sys.argv[1], "rb") as file:
            self.info, self.kept = pickle.load(file)
    def plan(self, height, width, tasks): return self.kept.plan
    def resize(self, image): return ResizedPicture(image, image.shape[:2])
    def segment_resized(self, pictures, options, plans, resize_seconds=0.0): return [self.kept] * len(pictures)

make = app.create_app
engine = lambda around: InProcessEngine(around, lambda runtime: Stored())
server.create_app = lambda settings, **rest: make(settings, make_engine=engine, **rest)
sys.exit(server.run(Settings(port=0, log_level="warning"), lambda url: print(url, flush=True)))
"""


def repeat(work: Any, seconds: float) -> float:
    """Runs per second, after one that does not count."""
    work()
    started, runs = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds or runs < 2:
        work()
        runs += 1
    return runs / passed


def worker(predictor: Predictor, image: np.ndarray, seconds: float) -> list[dict[str, Any]]:
    """Throughput by threads and batch size."""
    rows = []
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for batch in (1, 2):
            stages: list[dict[str, float]] = []

            def work(batch: int = batch, stages: list[dict[str, float]] = stages) -> None:
                stages.append(dict(predictor.segment([image] * batch, [SegmentationOptions()] * batch)[0].timings))

            rate = repeat(work, seconds) * batch
            plan = predictor.plan(*image.shape[:2])
            shares = {name: float(np.median([stage[name] for stage in stages[1:]])) for name in stages[0]}
            rows.append(
                {
                    "threads": threads,
                    "batch": batch,
                    "pictures_per_s": round(rate, 3),
                    "gmacs_per_picture": round(plan.flops / 1e9, 2),
                    "gmacs_per_s_and_thread": round(plan.flops / 1e9 * rate / threads, 1),
                    "infer_ms_per_picture": round(shares["infer"] / batch * 1e3, 1),
                    "postprocess_ms_per_picture": round((shares["postprocess"] + shares["encode"]) * 1e3, 1),
                }
            )
            print(rows[-1], flush=True)
    return rows


def gateway(predictor: Predictor, picture: bytes, image: np.ndarray, seconds: float) -> dict[str, Any]:
    """Requests per second and CPU seconds per request of a gateway that waits for nobody."""
    import pickle

    with tempfile.NamedTemporaryFile() as file:
        pickle.dump((predictor.info, predictor.segment([image], [SegmentationOptions()])[0]), file)
        file.flush()
        with subprocess.Popen([sys.executable, "-c", GATEWAY, file.name], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            try:
                return _load(url, picture, seconds)
            finally:
                process.terminate()


def _load(url: str, picture: bytes, seconds: float) -> dict[str, Any]:
    def cpu() -> float:
        return float(re.findall(r"^process_cpu_seconds_total (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)[0])

    counts = [0] * CONNECTIONS
    sizes: set[int] = set()
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        with httpx.Client(timeout=60) as http:
            while time.perf_counter() < until:
                answer = http.post(f"{url}/segment", content=picture, headers={"content-type": "image/jpeg"})
                answer.raise_for_status()
                sizes.add(len(answer.content))
                counts[number] += 1

    before, started = cpu(), time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent, passed = cpu() - before, time.perf_counter() - started
    memory = float(re.findall(r"^process_resident_memory_bytes (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)[0])
    return {
        "connections": CONNECTIONS,
        "requests_per_s": round(sum(counts) / passed, 1),
        "cpu_ms_per_picture": round(spent / sum(counts) * 1e3, 2),
        "processors_used": round(spent / passed, 2),
        "resident_mb": round(memory / 1e6),
        "request_kb": round(len(picture) / 1e3, 1),
        "answer_kb": round(max(sizes) / 1e3, 1),
    }


def main() -> None:
    """Measure and print; `--json` writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="per row")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    picture = (ROOT / "examples/nuclei.jpg").read_bytes()
    nuclei = np.asarray(Image.open(ROOT / "examples/nuclei.jpg").convert("RGB"))
    embedded = Predictor.load()
    results: dict[str, Any] = {"gateway, nuclei.jpg": gateway(embedded, picture, nuclei, arguments.seconds)}
    print(results, flush=True)
    results["worker, embedded model, 512x383"] = worker(embedded, nuclei, arguments.seconds)
    torch.manual_seed(0)
    config = ModelConfig("swin-t", 133, SWIN_T, PROSCALE)
    swin = Predictor(SegmentationNetwork(config), label_table("coco_panoptic").categories)
    street = np.asarray(Image.fromarray(nuclei).resize((640, 480)))
    results["worker, Swin-T of random weights, 640x480"] = worker(swin, street, arguments.seconds)
    results["most memory of the measuring process, MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    if arguments.json:
        kernels = torch.backends.cpu.get_cpu_capability()
        report = {
            "date": datetime.date.today().isoformat(),
            "command": "python " + " ".join(sys.argv),
            "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}; torch uses {kernels}",
            "torch": torch.__version__,
            "results": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
