"""Large pictures whose truth is known: what windows keep of the quality that the single pictures have alone, and what they cost.

A mosaic is stitched from nuclei pictures (`data/nuclei`) or drawn scenes, moved so that windows never fit its cells. Measured:

- PQ of things and of stuff: every cell as a picture of its own, the mosaic squeezed as a whole, windows of one cell's size with several
  overlaps; and apart, the share of true things that are found (IoU above 0.5) of those that a seam crosses, and of all others;
- agreement: the PQ of the result of a mosaic that is moved by half a window with the result of the unmoved one;
- with `--sizes`: seconds and peak memory against the side, each in a process of its own;
- with `--file-sides`: the same of `proscale segment --tile` on a tiled BigTIFF of that side, read and written in parts.

Run: python benchmarks/tiles.py [--kind nuclei] [--side 2048] [--overlaps 0 32 64 128] [--sizes 2048 4096 8192]
    [--file-sides 8192 32768] [--out FILE]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from processor import processor
from tqdm import tqdm

from proscale.datasets import PanopticMap, PanopticSegment
from proscale.datasets.find_layout import open_dataset
from proscale.evaluation.drawn_scenes import drawn_scenes
from proscale.evaluation.panoptic_quality import ClassCount, count_picture, mean_quality
from proscale.evaluation.picture_reading import read_rgb
from proscale.evaluation.predicted import panoptic_map
from proscale.labels import Category
from proscale.predictor import Predictor
from proscale.results import Prediction, SegmentationOptions
from proscale.tiles import Layout, Tiling, lay_out, segment_picture

CELL = {"nuclei": 256, "scenes": 320}
"""Pixels a side of a picture in the mosaic."""
MOVED = (37, 91)
"""Rows and columns of the first cells that are cut off, so that windows and cells do not meet."""
NUCLEI = Path(__file__).parents[1] / "data/nuclei"


@dataclass(frozen=True)
class Cell:
    """One picture of a mosaic."""

    image: NDArray[np.uint8]
    truth: PanopticMap


def cells_of(kind: str, count: int) -> tuple[list[Cell], tuple[Category, ...]]:
    """Pictures of one size with their truth, and their categories."""
    side = CELL[kind]
    data = drawn_scenes(count) if kind == "scenes" else open_dataset(NUCLEI, split="val")
    cells = []
    for picture in data.pictures:
        image = read_rgb(picture)
        assert picture.read_panoptic is not None
        truth = picture.read_panoptic()
        if min(image.shape[:2]) >= side:
            cut = truth.ids[:side, :side]
            present = set(np.unique(cut).tolist())
            cells.append(Cell(image[:side, :side], PanopticMap(cut, tuple(s for s in truth.segments if s.id in present))))
    return cells[:count], data.categories


def mosaic(cells: Sequence[Cell], side: int, stuff: frozenset[int]) -> tuple[NDArray[np.uint8], PanopticMap]:
    """Cells side by side, `side` pixels square; the stuff of one class is one segment. The same side has the same order of cells."""
    cell = cells[0].image.shape[0]
    rng = np.random.default_rng(side)
    image, ids = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.int32)
    segments: dict[int, PanopticSegment] = {}
    of_class: dict[int, int] = {}
    for top in range(-MOVED[0], side, cell):
        for left in range(-MOVED[1], side, cell):
            chosen = cells[int(rng.integers(len(cells)))]
            rows, columns = slice(max(0, top), min(side, top + cell)), slice(max(0, left), min(side, left + cell))
            inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            image[rows, columns] = chosen.image[inside]
            own = chosen.truth.ids[inside]
            for segment in chosen.truth.segments:
                mask = own == segment.id
                if mask.any():
                    number = of_class.get(segment.category_id, len(segments) + 1)
                    if segment.category_id in stuff:
                        of_class[segment.category_id] = number
                    segments[number] = PanopticSegment(number, segment.category_id)
                    ids[rows, columns][mask] = number
    return image, PanopticMap(ids, tuple(segments.values()))


class Judge:
    """Compares results with the truth, in the categories of the data."""

    def __init__(self, predictor: Predictor, categories: tuple[Category, ...]) -> None:
        names = {category.name: category.id for category in categories}
        self.to_data = {each.id: names[each.name] for each in predictor.categories if each.name in names}
        self.stuff = frozenset(category.id for category in categories if not category.isthing)
        self.things = frozenset(category.id for category in categories if category.isthing)

    def map_of(self, prediction: Prediction) -> PanopticMap:
        """A panoptic prediction as a map."""
        return panoptic_map(prediction.results["panoptic"], self.to_data, self.stuff)

    def quality(self, pairs: list[tuple[PanopticMap, PanopticMap]]) -> dict[str, Any]:
        """PQ over (truth, result) pairs."""
        counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
        for truth, found in pairs:
            count_picture(counts, truth, found)
        things, stuff = mean_quality(counts, self.things), mean_quality(counts, self.stuff)
        everything = mean_quality(counts, self.things | self.stuff)
        return {"pq": everything["pq"], "things": things, "stuff": stuff}

    def found_at_seams(self, truth: PanopticMap, result: PanopticMap, layout: Layout) -> dict[str, float]:
        """Share of true things that are found, of those that a seam crosses and of the others."""
        cut: set[int] = set()
        for edges, axis in ((layout.rows.edges[1:-1], 0), (layout.columns.edges[1:-1], 1)):
            for edge in edges:
                before, after = np.take(truth.ids, edge - 1, axis), np.take(truth.ids, edge, axis)
                cut |= set(before[(before == after)].tolist())
        counted: dict[bool, list[bool]] = {True: [], False: []}
        classes = {segment.id: segment.category_id for segment in result.segments}
        pairs, areas = np.unique(np.stack([truth.ids.ravel(), result.ids.ravel()]), axis=1, return_counts=True)
        sizes, own = np.bincount(result.ids.ravel()), np.bincount(truth.ids.ravel())
        best: dict[int, float] = {}
        things = {segment.id: segment.category_id for segment in truth.segments if segment.category_id in self.things}
        for (t, p), area in zip(pairs.T.tolist(), areas.tolist(), strict=True):
            if t in things and classes.get(p) == things[t]:
                best[t] = max(best.get(t, 0.0), area / (own[t] + sizes[p] - area))
        for t in things:
            counted[t in cut].append(best.get(t, 0.0) > 0.5)
        return {name: float(np.mean(counted[key])) for name, key in (("crossed", True), ("others", False)) if counted[key]} | {
            "number_crossed": float(len(counted[True]))
        }


def quality(kind: str, side: int, overlaps: list[int], predictor: Predictor) -> dict[str, Any]:
    """The table of one mosaic."""
    cells, categories = cells_of(kind, 60)
    judge, options, cell = Judge(predictor, categories), SegmentationOptions(("panoptic",)), CELL[kind]
    image, truth = mosaic(cells, side, judge.stuff)
    # What every cell has as a picture of its own, put together as the truth is.
    alone = [Cell(each.image, judge.map_of(predictor.segment([each.image], [options])[0])) for each in tqdm(cells, desc="alone")]
    rows: dict[str, Any] = {"alone": judge.quality([(truth, mosaic(alone, side, judge.stuff)[1])])}
    rows["whole"] = judge.quality([(truth, judge.map_of(predictor.segment([image], [options])[0]))])
    for overlap in overlaps:
        layout = lay_out(Tiling("fixed", cell, overlap), side, side, predictor.plan, options.tasks)
        assert layout is not None
        with tqdm(total=len(layout), desc=f"overlap {overlap}") as bar:
            started = time.perf_counter()
            result = judge.map_of(segment_picture(predictor, layout, image, options, bar.update))
            seconds = time.perf_counter() - started
        row = judge.quality([(truth, result)]) | {"found": judge.found_at_seams(truth, result, layout)}
        row |= {"windows": len(layout), "seconds": seconds, "agreement": agreement(predictor, image, result, layout, judge)}
        rows[f"overlap {overlap}"] = row
        print_row(f"overlap {overlap}", row, rows["alone"])
    return {"kind": kind, "side": side, "window": cell, "rows": rows}


def agreement(predictor: Predictor, image: NDArray[np.uint8], result: PanopticMap, layout: Layout, judge: Judge) -> dict[str, Any]:
    """PQ of the result of the picture without its first half window with the same part of the whole's result."""
    half = layout.rows.window // 2
    moved = np.ascontiguousarray(image[half:, half:])
    tiling = Tiling("fixed", layout.rows.window, layout.rows.overlap)
    again = lay_out(tiling, moved.shape[0], moved.shape[1], predictor.plan, ("panoptic",))
    assert again is not None
    found = judge.map_of(segment_picture(predictor, again, moved, SegmentationOptions(("panoptic",))))
    part = result.ids[half:, half:]
    present = set(np.unique(part).tolist())
    return judge.quality([(PanopticMap(part, tuple(s for s in result.segments if s.id in present)), found)])


def print_row(name: str, row: dict[str, Any], alone: dict[str, Any]) -> None:
    """One line of the table."""
    share = row["things"]["pq"] / alone["things"]["pq"] if row["things"]["pq"] is not None else 0.0
    line = f"{name:>12}: PQ {row['pq']:.4f}  things {row['things']['pq']:.4f} ({share:.3f} of alone)  stuff {row['stuff']['pq']:.4f}"
    if "found" in row:
        line += f"  found at seams {row['found'].get('crossed', 0):.3f}, else {row['found'].get('others', 0):.3f}"
        line += f"  agreement {row['agreement']['pq']:.4f} (things {row['agreement']['things']['pq']:.4f})  {row['seconds']:.1f} s"
    print(line, flush=True)


def cost(kind: str, side: int, overlap: int, threads: int) -> dict[str, Any]:
    """Seconds and peak memory of one side, in this process; the mosaic comes from a file that is mapped, so that it counts little."""
    torch.set_num_threads(threads)
    cells, categories = cells_of(kind, 60)
    image, _ = mosaic(cells, side, frozenset(category.id for category in categories if not category.isthing))
    predictor = Predictor.load()
    small = Image.fromarray(image[: CELL[kind], : CELL[kind]])
    predictor.segment([np.asarray(small)], [SegmentationOptions()])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layout = lay_out(Tiling("fixed", CELL[kind], overlap), side, side, predictor.plan, ("panoptic",))
    assert layout is not None
    started = time.perf_counter()
    prediction = segment_picture(predictor, layout, image, SegmentationOptions(("panoptic",)))
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    segments = len(prediction.results["panoptic"].segments)
    return {
        "side": side,
        "windows": len(layout),
        "segments": segments,
        "seconds": seconds,
        "microseconds_per_pixel": seconds * 1e6 / side**2,
        "mebibytes_beside_picture_and_network": grown / 1024,
        "seconds_merging": prediction.timings["postprocess"],
    }


def file_cost(side: int, windows: str) -> dict[str, Any]:
    """Seconds and peak memory of the command on a file."""
    cells, categories = cells_of("nuclei", 60)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        tile, _ = mosaic(cells, 2048, frozenset(category.id for category in categories if not category.isthing))
        about: dict[str, Any] = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "photometric": "rgb"}
        about |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "bigtiff": "YES"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path, "w", **about) as file:
                for top in range(0, side, 2048):
                    rows = min(2048, side - top)
                    band = np.tile(np.moveaxis(tile[:rows], -1, 0), (1, 1, -(-side // 2048)))[:, :, :side]
                    file.write(band, window=((top, top + rows), (0, side)))
        command = [sys.executable, "-c", "from proscale.cli import main; main()", "segment", str(path), "--tile", windows, "--out", folder]
        command += [part for name in ("geojson", "ids_tiff", "parquet") for part in ("--format", name)]
        started = time.perf_counter()
        # GNU time's own child: its peak is not that of this process.
        done = subprocess.run(["/usr/bin/env", "time", "-f", "%M", *command], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    return {
        "side": side,
        "pixels": side**2,
        "windows": windows,
        "seconds": seconds,
        "peak_mebibytes": int(done.stderr.split()[-1]) / 1024,
        "said": done.stdout.strip(),
    }


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=CELL, action="append", help="may be repeated; default: both")
    parser.add_argument("--side", type=int, default=2048, help="of the mosaic whose quality is measured, in pixels; 0: none")
    parser.add_argument("--overlaps", type=int, nargs="*", default=[0, 32, 64, 128])
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="sides whose seconds and memory are measured")
    parser.add_argument("--file-sides", type=int, nargs="*", default=[], help="sides of files that are read in parts")
    parser.add_argument("--file-windows", default="2048,128", help="`--tile` for those files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-cost", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    if given.one_cost:
        kind, side = given.one_cost.split(",")
        print(json.dumps(cost(kind, int(side), 64, given.threads)))
        return
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = {"processor": processor(), "threads": given.threads, "quality": [], "cost": [], "files": []}
    for kind in given.kind or CELL:
        if given.side:
            measured = quality(kind, given.side, given.overlaps, Predictor.load())
            results["quality"].append(measured)
            print(f"{kind}, {given.side} x {given.side}, windows of {CELL[kind]}")
            for name, row in measured["rows"].items():
                print_row(name, row, measured["rows"]["alone"])
        for side in given.sizes:
            command = [sys.executable, __file__, "--one-cost", f"{kind},{side}", "--threads", str(given.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results["cost"].append(json.loads(done.stdout.splitlines()[-1]) | {"kind": kind})
            print(results["cost"][-1], flush=True)
    for side in given.file_sides:
        results["files"].append(file_cost(side, given.file_windows))
        print(results["files"][-1], flush=True)
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
