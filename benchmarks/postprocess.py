"""Post-processing and RLE against what else computes them, in one run: `.venv/bin/python benchmarks/postprocess.py`.

`rle`: a panoptic map of 1920 x 1080 with 32 segments, against pycocotools once per segment. `800x1216`: 100 queries of a COCO model, shaped
like a trained network's (compact masks, most queries void), against transformers' post-processing of the same logits (which stops at dense
masks and leaves RLE to others) and against this package's own form in torch, both with the encoding that goes with them.
`40 megapixels`: all of it at the largest picture the service takes, with the growth of the process. `nuclei`: the default model on
examples/nuclei.jpg, every stage. Times are medians of interleaved rounds in milliseconds; compare ratios, not runs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor

from proscale.ops import native
from proscale.ops.rle import encode_runs, map_runs
from proscale.postprocess import found
from proscale.postprocess.found import Frames, find_instances, find_panoptic, find_semantic
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.rle import encode_id_map

QUERIES, CLASSES, THINGS = 100, 133, 80
TASKS = ("panoptic", "instance", "semantic")
LARGE = (5477, 7303)

Job = Callable[[], object]


def medians(jobs: dict[str, Job], rounds: int) -> dict[str, float]:
    """Milliseconds per job, median over interleaved rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            if turn:
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def trained_like(height: int, width: int, kept: int = 30) -> tuple[Tensor, Tensor]:
    """Class logits (100, 134), `kept` of them sure of a class; mask logits (100, height, width), compact, with edges a few pixels wide."""
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(QUERIES, CLASSES + 1, generator=generator)
    class_logits[kept:, -1] += 12
    sure = torch.randint(CLASSES, (kept,), generator=generator)
    class_logits[torch.arange(kept), sure] += 12
    y, x = torch.arange(height)[:, None], torch.arange(width)
    centre = torch.rand(QUERIES, 2, 1, 1, generator=generator) * torch.tensor([height, width])[:, None, None]
    radius = 10 + torch.rand(QUERIES, 1, 1, generator=generator) * min(height, width) * 0.2
    distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
    return class_logits, (radius - distance).clamp(-9, 7) + torch.randn(QUERIES, height, width, generator=generator) * 0.3


def ours(task: str, logits: tuple[Tensor, Tensor], frames: Frames) -> Job:
    """From logits to RLE, with the model's usual thresholds."""
    is_thing = [index < THINGS for index in range(CLASSES)]
    jobs: dict[str, Job] = {
        "panoptic": lambda: find_panoptic(*logits, frames, is_thing, 0.8, 0.8).encode(),
        "instance": lambda: find_instances(*logits, frames, is_thing, 100, 0.5, 0.5).encode(),
        "semantic": lambda: find_semantic(*logits, frames, False).encode(),
    }
    return jobs[task]


def in_torch(job: Job) -> Job:
    """The same with the compiled pass forbidden."""

    def run() -> None:
        with mock.patch.object(found, "compiled", return_value=False):
            job()

    return run


def transformers_job(task: str, logits: tuple[Tensor, Tensor], frames: Frames) -> Job:
    """transformers 5's function for the task: to dense masks, without an encoding."""
    from transformers import Mask2FormerImageProcessor

    processor = Mask2FormerImageProcessor()
    output = SimpleNamespace(class_queries_logits=logits[0][None], masks_queries_logits=logits[1][None])
    post_process = getattr(processor, f"post_process_{task}_segmentation")
    more = {} if task == "semantic" else {"threshold": 0.8 if task == "panoptic" else 0.5}
    return lambda: post_process(output, target_sizes=[frames.output], **more)


def measure_rle(rounds: int) -> dict[str, object]:
    """A panoptic map to RLE."""
    rng = np.random.default_rng(0)
    centres = rng.random((32, 2)) * (1080, 1920)
    y, x = np.mgrid[:1080, :1920]
    ids = np.argmin(np.stack([(y - a) ** 2 + (x - b) ** 2 + 3000 * np.sin(x / 37 + i) for i, (a, b) in enumerate(centres)]), 0) + 1
    ids, wanted = ids.astype(np.int32), list(range(1, 33))
    tensor, table = torch.from_numpy(ids), list(range(-1, 32))

    def peer() -> list[bytes]:
        return [coco.encode(np.asfortranarray(ids == i, dtype=np.uint8))["counts"] for i in wanted]

    def own() -> list[bytes]:
        return [mask.rle.counts.encode() for mask in encode_runs(map_runs(tensor), table, 32, ids.shape)]

    assert own() == peer(), "not byte-identical"
    masks = [np.asfortranarray(ids == i, dtype=np.uint8) for i in wanted]
    jobs: dict[str, Job] = {"ours": own, "numpy": lambda: encode_id_map(ids, wanted), "pycocotools": peer}
    jobs["pycocotools, masks made before"] = lambda: [coco.encode(mask) for mask in masks]
    return {"case": "rle, 1920x1080, 32 segments", "ms": medians(jobs, rounds)}


def measure_size(rounds: int) -> list[dict[str, object]]:
    """Logits to results at the size that networks of 800 pixels see."""
    frames, logits = Frames((800, 1216), (800, 1216), (800, 1216)), trained_like(200, 304)
    records: list[dict[str, object]] = []
    for task in TASKS:
        job = ours(task, logits, frames)
        jobs = {"ours, to RLE": job, "torch form, to RLE": in_torch(job), "transformers, to masks": transformers_job(task, logits, frames)}
        records.append({"case": f"{task}, 800x1216", "ms": medians(jobs, rounds)})
    return records


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure_large(task: str) -> dict[str, object]:
    """One task at 40 megapixels, in a process of its own, so that its peak is nobody else's."""
    frames, logits = Frames((800, 1088), (800, 1067), LARGE), trained_like(200, 272)
    ours(task, logits, Frames((800, 1088), (800, 1067), (80, 107)))()  # libraries and threads
    Path("/proc/self/clear_refs").write_text("5")
    before, begin = resident("VmRSS"), time.perf_counter()
    ours(task, logits, frames)()
    ms, growth = (time.perf_counter() - begin) * 1e3, resident("VmHWM") - before
    return {"case": f"{task}, {LARGE[0]}x{LARGE[1]}", "ms": {"ours, to RLE": round(ms, 1)}, "growth_mb": round(growth)}


def measure_nuclei(rounds: int) -> dict[str, object]:
    """The default model on the example picture."""
    image = np.asarray(Image.open(Path(__file__).parents[1] / "examples/nuclei.jpg").convert("RGB"))
    predictor, options = Predictor.load(), SegmentationOptions()
    stages: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for form in ("ours", "torch form"):
            with mock.patch.object(found, "compiled", found.compiled if form == "ours" else lambda *_: False):
                (prediction,) = predictor.segment([image], [options])
            for stage, seconds in prediction.timings.items():
                if turn:
                    stages.setdefault(f"{stage}, {form}", []).append(seconds * 1e3)
    return {"case": f"nuclei.jpg {image.shape[0]}x{image.shape[1]}", "ms": {k: round(statistics.median(v), 2) for k, v in stages.items()}}


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", choices=TASKS, help="only this task at 40 megapixels, in this process")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    args = parser.parse_args()
    with torch.inference_mode():
        if args.large:
            print(json.dumps(measure_large(args.large)))
            return
        records = [measure_rle(args.rounds), *measure_size(args.rounds), measure_nuclei(args.rounds)]
    for task in TASKS:
        run = subprocess.run([sys.executable, __file__, "--large", task], check=True, capture_output=True, text=True)
        records.append(json.loads(run.stdout))
    for record in records:
        print(json.dumps(record))
    if args.out:
        about = {"date": time.strftime("%Y-%m-%d"), "hardware": f"{os.cpu_count()} CPU cores, {native.STATUS.cpu}"}
        about |= {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__, "python": platform.python_version()}
        args.out.write_text(json.dumps(about | {"records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
