"""What every format of an answer takes, as a share of the network's own time for the same picture; both in one run.

Masks: drawn scenes' truth and textured segments, at 800x1216 and 40 megapixels. Run: python benchmarks/formats.py
"""

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from proscale.formats.files import FORMATS, FormatOptions
from proscale.predictor import Predictor
from proscale.results import Segment, Segmentation, SegmentationOptions
from proscale.rle import encode_id_map, measure


def segments(height: int, width: int, count: int, roughness: float) -> Segmentation:
    """A panoptic result of about `count` segments: cells of a Voronoi diagram with borders that noise moves."""
    rng = np.random.default_rng(0)
    small = (max(8, height // 4), max(8, width // 4))
    seeds = np.zeros(small, np.int32)
    seeds.ravel()[rng.choice(seeds.size, count, replace=False)] = np.arange(1, count + 1)
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    cells = seeds[tuple(nearest)]
    rows = (np.arange(height) * small[0] // height)[:, None] + rng.normal(0, roughness, (height, width)).round().astype(int)
    columns = (np.arange(width) * small[1] // width)[None] + rng.normal(0, roughness, (height, width)).round().astype(int)
    ids = cells[rows.clip(0, small[0] - 1), columns.clip(0, small[1] - 1)]
    found = []
    for number, rle in encode_id_map(ids, range(1, count + 1)).items():
        area, box = measure(rle)
        found.append(Segment(number, number % 80, f"class {number % 80}", True, 0.9, box, area, rle))
    return Segmentation("panoptic", (height, width), tuple(found))


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
    parser.add_argument("--checkpoint", help="model folder for the network's time; default: the embedded model at 800x1216 pixels' size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    predictor = Predictor.load(given.checkpoint)
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for height, width, count, roughness in ((800, 1216, 60, 0.3), (800, 1216, 300, 0.3), (6400, 6250, 300, 0.3)):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        network = best(partial(predictor.segment, [picture], [SegmentationOptions()]), 1 if height > 1000 else given.rounds)
        result = segments(height, width, count, roughness)
        for name, each in FORMATS.items():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seconds = best(partial(each.write, result, picture, FormatOptions()), given.rounds if height < 1000 else 1)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            row: dict[str, Any] = {"size": f"{height}x{width}", "segments": count, "format": name, "seconds": round(seconds, 4)}
            row |= {"network_seconds": round(network, 3), "share": round(seconds / network, 3), "peak_grew_mib": round(grown)}
            rows.append(row)
            print(*(f"{value:>14}" for value in row.values()), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"processor": processor(), "threads": 2, "rows": rows}, indent=1) + "\n")


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
