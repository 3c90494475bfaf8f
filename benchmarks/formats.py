"""What every format of an answer takes, as a share of what Swin-T (3, 3, 3) takes for a picture at 800x1216; both in one run.

Segments are cells of a Voronoi diagram, with smooth outlines and with ragged ones, which have many more corners.
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
from model_contenders import categories, our_config, picture_for, random_network
from processor import processor
from scipy import ndimage

from proscale.formats.files import FORMATS, FormatOptions
from proscale.predictor import Predictor
from proscale.results import Segment, Segmentation, SegmentationOptions
from proscale.rle import encode_id_map, measure

THREADS = 2
NETWORK_SIZE = "800x1216"
CASES = ((800, 1216, 60, 0.0), (800, 1216, 60, 0.3), (800, 1216, 300, 0.0), (800, 1216, 300, 0.3), (6400, 6250, 300, 0.0))
"""Height, width, segments, roughness of their outlines."""


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
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seconds = best(partial(each.write, result, image, FormatOptions()), given.rounds)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            outline = "ragged" if roughness else "smooth"
            row: dict[str, Any] = {"size": f"{height}x{width}", "segments": count, "outlines": outline, "format": name}
            row |= {"seconds": round(seconds, 4), "share": round(seconds / network, 3), "peak_grew_mib": round(grown)}
            rows.append(row)
            print(*(f"{value:>16}" for value in row.values()), flush=True)
    if given.out:
        about = {"processor": processor(), "threads": THREADS, "rounds": given.rounds, "load_average": os.getloadavg()[0]}
        given.out.write_text(json.dumps(about | {"network_seconds": round(network, 3), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
