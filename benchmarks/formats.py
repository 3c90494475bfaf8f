"""What every format of an answer takes, as a share of what Swin-T (3, 3, 3) takes for a picture at 800x1216; both in one run.

Run: python benchmarks/formats.py [--out FILE]
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from format_cases import CASES, outline, segments
from model_contenders import categories, our_config, picture_for, random_network
from processor import processor

from proscale.formats.files import FORMATS, FormatOptions
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

THREADS = 2
NETWORK_SIZE = "800x1216"


def best(function: Callable[[], object], rounds: int) -> float:
    """Least seconds of several rounds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    picture, preprocess = picture_for(NETWORK_SIZE)
    predictor = Predictor(random_network(our_config("proscale", preprocess)), categories(), precision="float32")
    network = best(partial(predictor.segment, [picture], [SegmentationOptions()]), given.rounds)
    print(f"network, Swin-T (3, 3, 3), {NETWORK_SIZE}, float32, {THREADS} threads: {network:.3f} s")
    rows: list[dict[str, Any]] = []
    for height, width, count, roughness in CASES:
        image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
        result = segments(height, width, count, roughness)
        for name, each in FORMATS.items():
            if name == "confidence_png":  # made with the masks, not from them
                continue
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seconds = best(partial(each.write, result, image, FormatOptions()), given.rounds)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            row: dict[str, Any] = {"size": f"{height}x{width}", "segments": count, "outlines": outline(roughness), "format": name}
            row |= {"seconds": round(seconds, 4), "share": round(seconds / network, 3), "peak_grew_mib": round(grown)}
            rows.append(row)
            print(*(f"{value:>16}" for value in row.values()), flush=True)
    if given.out:
        about = {"processor": processor(), "threads": THREADS, "rounds": given.rounds, "load_average": os.getloadavg()[0]}
        given.out.write_text(json.dumps(about | {"network_seconds": round(network, 3), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
