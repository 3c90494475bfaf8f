"""The whole path from a decoded picture to COCO RLE against its peers, in one run on one machine.

    python benchmarks/model.py --against transformers,eomt [--sizes 800x1216,640x640] [--device cuda] [--batch 8] [--quick] [--out FILE]

Swin-T, COCO's 133 classes, random weights, panoptic results. Every contender runs in a process of its own; they take turns, so that
whatever else the machine does hits all alike, and medians over the rounds are compared. Peak memory is what a process grows by, from the
loaded model to the peak of its runs. `model_contenders.py` tells what each contender is and does.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from model_contenders import STAGES, picture_for
from models_page import in_words, model_tables, replace_tables
from processor import processor

from proscale.precision import cpu_bfloat16, cpu_int8

HERE = Path(__file__).parent
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s by the maker's data sheets."""
REFERENCE = "transformers Mask2Former float32"


def contenders(peers: Sequence[str], size: str, device: str, openvino_python: str = sys.executable) -> dict[str, dict[str, Any]]:
    """Name -> what to run. On a GPU bfloat16 and compiled forms join, for all alike; bfloat16 only where it is not emulated."""
    ours = {"kind": "ours", "size": size, "keep": True}
    found: dict[str, dict[str, Any]] = {
        "ours (3,3,3) float32": {**ours, "network": "proscale", "precision": "float32"},
        "ours (3,3,3) bfloat16": {**ours, "network": "proscale", "precision": "bfloat16"},
        "ours (3,3,3) int8": {**ours, "network": "proscale", "precision": "int8"},
        "ours Mask2Former encoder float32": {**ours, "network": "mask2former", "precision": "float32"},
    }
    if device == "cpu":
        for precision in ("float32", "bfloat16"):
            options = {"compile_for": [picture_for(size)[0].shape[:2]]}
            found[f"ours (3,3,3) {precision}, compiled"] = {**ours, "network": "proscale", "precision": precision, "options": options}
    else:
        found["ours (3,3,3) bfloat16, CUDA graphs"] = {
            **ours,
            "network": "proscale",
            "precision": "bfloat16",
            "options": {"cuda_graphs": True},
        }
    peer_forms = [("float32", False)] if device == "cpu" else [("float32", False), ("bfloat16", False), ("bfloat16", True)]
    if "transformers" in peers:
        for precision, compiled in peer_forms:
            name = f"transformers Mask2Former {precision}" + (", compiled" if compiled else "")
            found[name] = {"kind": "transformers", "size": size, "precision": precision, "compile": compiled}
        if device == "cpu":  # what a setting of the C library alone would bring the peer
            found[f"{REFERENCE}, memory kept"] = {"kind": "transformers", "size": size, "precision": "float32", "keep": True}
    if "eomt" in peers:
        for precision, compiled in [*peer_forms, ("bfloat16", False)] if device == "cpu" else peer_forms:
            name = f"EoMT-B at 640x640 {precision}" + (", compiled" if compiled else "")
            found[name] = {"kind": "eomt", "size": size, "precision": precision, "compile": compiled}
    if "openvino" in peers and device == "cpu":
        for precision in ("float32", "bfloat16"):
            job = {"kind": "transformers", "runtime": "openvino", "size": size, "precision": precision, "python": openvino_python}
            found[f"OpenVINO, transformers Mask2Former {precision}"] = job
    refused = {precision for precision, (fast, _) in (("bfloat16", cpu_bfloat16()), ("int8", cpu_int8())) if device == "cpu" and not fast}
    refused |= {"int8"} if device != "cpu" else set()
    return {name: job for name, job in found.items() if job["precision"] not in refused}


class ContenderFailedError(RuntimeError):
    """A contender's process has ended; its traceback stands above."""


class Worker:
    """A contender's process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [job.get("python", sys.executable), str(HERE / "model_contenders.py"), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.loaded = self._answer()

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ContenderFailedError(f"its process ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(jobs: dict[str, dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """Medians over `rounds`, after a few runs to warm up; one record per contender that runs here."""
    workers: dict[str, Worker] = {}
    try:
        for name, job in jobs.items():
            try:
                workers[name] = Worker(job)
                for _ in range(1 if job["device"] == "cpu" else 3):  # CUDA graphs record at the second run
                    workers[name].ask("run")
            except ContenderFailedError as error:
                workers.pop(name, None)
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                runs[name].append(worker.ask("run"))
        bare = {name: [worker.ask("time") for _ in range(3)] for name, worker in workers.items() if jobs[name]["device"] != "cpu"}
    finally:
        for worker in workers.values():
            worker.close()
    records = []
    for name, answers in runs.items():
        job, last = jobs[name], answers[-1]
        record = {"contender": name} | {key: job[key] for key in ("size", "batch", "precision")}
        timed = bare.get(name, answers)  # on a GPU, waiting for every stage costs time of its own
        record["seconds"] = round(statistics.median(a["seconds"] for a in timed), 4)
        record["stages"] = {stage: round(statistics.median(a["stages"].get(stage, 0.0) for a in answers), 4) for stage in STAGES}
        record |= {key: last[key] for key in ("segments", "page_faults", "peak_growth_mib", "gpu_peak_mib") if key in last}
        record["gflops"] = round(workers[name].loaded["flops"] / 1e9, 1)
        record["images_per_second"] = round(job["batch"] / record["seconds"], 3)
        records.append(record)
    return records


def add_ratios(records: list[dict[str, Any]], device: str) -> None:
    """How many times as fast as transformers' Mask2Former each is, its share of the memory, and on a GPU of the bfloat16 peak."""
    reference = next((r for r in records if r["contender"] == REFERENCE), None)
    for record in records:
        if reference is not None:
            record["times_as_fast"] = round(reference["seconds"] / record["seconds"], 2)
            record["share_of_memory"] = round(record["peak_growth_mib"] / max(reference["peak_growth_mib"], 1), 2)
        if device != "cpu":
            peak = next((p for name, p in PEAK_BF16.items() if name in torch.cuda.get_device_name()), None)
            if peak:
                record["share_of_bf16_peak"] = round(2e9 * record["gflops"] * record["images_per_second"] / peak, 3)


def table(records: list[dict[str, Any]]) -> str:
    """The records as text."""
    columns = ["total s", "x peer", "MiB", "faults", *STAGES]
    lines = [f"{'':<38}" + "".join(f"{c:>{max(10, len(c) + 2)}}" for c in columns)]
    for record in records:
        figures = (record.get(key, "") for key in ("times_as_fast", "peak_growth_mib", "page_faults"))
        cells = [f"{record['seconds']:.3f}", *map(str, figures)]
        cells += [f"{record['stages'][stage]:.3f}" for stage in STAGES]
        lines.append(f"{record['contender']:<38}" + "".join(f"{x:>{max(10, len(c) + 2)}}" for x, c in zip(cells, columns, strict=True)))
    return "\n".join(lines)


def hardware(device: str) -> str:
    """What computes, in words."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{in_words(processor())}, {os.cpu_count()} cores"


def main() -> None:
    """Measure, print a table per size and batch, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--against", default="transformers,eomt", help="peers, comma separated: transformers, eomt, openvino; empty for none"
    )
    parser.add_argument("--sizes", default="800x1216,640x640", help="padded sizes HEIGHTxWIDTH, comma separated")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", default="1", help="pictures per batch, comma separated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--openvino-python", default=sys.executable, help="a Python that has requirements/bench.txt beside ours")
    parser.add_argument("--only", default="", help="contenders whose name has a match of this regular expression")
    parser.add_argument("--quick", action="store_true", help="one small size, two rounds: to see that everything runs")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--document", default="", help="pages whose table is written anew, comma separated: README.md,docs/performance.md")
    arguments = parser.parse_args()
    sizes = ["320x320"] if arguments.quick else arguments.sizes.split(",")
    rounds = 2 if arguments.quick else arguments.rounds
    peers = [peer for peer in arguments.against.split(",") if peer]
    if unknown := set(peers) - {"transformers", "eomt", "openvino"}:
        parser.error(f"no such peer: {', '.join(unknown)}; there are transformers, eomt and openvino")
    every: list[dict[str, Any]] = []
    for size in sizes:
        for batch in map(int, arguments.batch.split(",")):
            shared = {"device": arguments.device, "batch": batch, "threads": arguments.threads, "repeats": 10}
            jobs = {
                n: {**j, **shared}
                for n, j in contenders(peers, size, arguments.device, arguments.openvino_python).items()
                if re.search(arguments.only, n)
            }
            records = measure(jobs, rounds)
            add_ratios(records, arguments.device)
            print(f"\n{size}, batch {batch}\n{table(records)}", flush=True)
            every += records
    if arguments.out or arguments.document:
        report = {
            "date": datetime.date.today().isoformat(),
            "command": "python " + " ".join(sys.argv),
            "hardware": hardware(arguments.device),
            "threads": arguments.threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "rounds": rounds,
            "logits": "post-processing is given one drawn scene of 28 segments by every contender; the networks' weights are random",
            "records": every,
        }
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        for page in filter(None, arguments.document.split(",")):
            replace_tables(Path(page), {"model": model_tables(report)})


if __name__ == "__main__":
    main()
