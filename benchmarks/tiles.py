"""Large pictures whose truth is known: what windows keep of the quality that the single pictures have alone, and what they cost.

A mosaic is stitched from nuclei pictures (`data/nuclei`) or drawn scenes, moved so that windows never fit its cells. Measured:

- PQ of things and of stuff: every cell as a picture of its own, the mosaic squeezed as a whole, windows of one cell's size with several
  overlaps, merged and joint; and apart, the share of true things that are found (IoU above 0.5) of those that a seam crosses, and of all
  others; beside them the share that the single window finds in which each lies deepest, which is all that a merge has to choose from;
- agreement: the PQ of the result of a mosaic that is moved by half a window, and by a third, with the result of the unmoved one;
- the same for large pictures that are of one kind throughout, as slides are: single pictures, mirrored over and over;
- what bounds it: the agreement of pictures that are not cut at all and lie elsewhere in their mirrored surroundings, and of single
  windows of the mosaic, half a window apart, about what both see whole;
- with `--sizes`: seconds and peak memory against the side, each in a process of its own;
- with `--file-sides`: the same of `proscale segment --tile` on a tiled BigTIFF of that side, read and written in parts.

Run: python benchmarks/tiles.py [--kind nuclei] [--side 2048] [--overlaps 0 32 64 128] [--pictures 30] [--sizes 2048 4096 8192]
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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from mosaics import CELL, MOVED, Cell, Judge, cells_of, mosaic, part_of
from numpy.typing import NDArray
from PIL import Image
from processor import processor
from scipy import ndimage
from tqdm import tqdm

from proscale.any_network import build_network
from proscale.checkpoints.model_folder import DEFAULT_FOLDER, load_folder
from proscale.datasets import PanopticMap
from proscale.evaluation.panoptic_quality import ClassCount, count_picture
from proscale.predictor import Predictor
from proscale.results import Segmentation, SegmentationOptions
from proscale.tiles import Layout, Merger, Tiling, lay_out, merged_prediction, segment_picture
from proscale.tiles.layout import Box
from proscale.tiles.parts import depth_in

OPTIONS = SegmentationOptions(("panoptic",))


def quality(kind: str, side: int, overlaps: list[int], pictures: int, predictor: Predictor) -> dict[str, Any]:
    """The table of one mosaic. Args: pictures: whose agreement with themselves is measured."""
    cells, categories = cells_of(kind, 60)
    judge, cell = Judge(predictor, categories), CELL[kind]
    image, truth = mosaic(cells, side, judge.stuff)
    # What every cell has as a picture of its own, put together as the truth is.
    alone = [Cell(each.image, judge.map_of(predictor.segment([each.image], [OPTIONS])[0])) for each in tqdm(cells, desc="alone")]
    rows: dict[str, Any] = {"alone": judge.quality([(truth, mosaic(alone, side, judge.stuff)[1])])}
    rows["alone"]["found"] = {"all": found_share(judge, [(each.truth, result.truth) for each, result in zip(cells, alone, strict=True)])}
    rows["whole"] = judge.quality([(truth, judge.map_of(predictor.segment([image], [OPTIONS])[0]))])
    for overlap in overlaps:
        layout = windows_of(predictor, image, cell, overlap)
        started = time.perf_counter()
        results = window_results(predictor, layout, image, f"overlap {overlap}")
        result = judge.map_of_result(merged(layout, results))
        seconds = time.perf_counter() - started
        row = judge.quality([(truth, result)]) | {"found": judge.found_at_seams(truth, result, layout)}
        row["found"]["by_the_deepest_window"] = found_deepest(judge, truth, layout, results)
        row |= {"windows": len(layout), "seconds": seconds}

        def again(moved: NDArray[np.uint8], overlap: int = overlap) -> PanopticMap:
            other = windows_of(predictor, moved, cell, overlap)
            return judge.map_of_result(merged(other, window_results(predictor, other, moved, "moved")))

        row["agreement"] = agreement(judge, image, result, cell // 2, again)
        row["agreement_third"] = agreement(judge, image, result, cell // 3, again)
        rows[f"overlap {overlap}"] = row
        print_row(f"overlap {overlap}", row, rows["alone"])
    rows |= uniform_rows(judge, predictor, cells, side, overlaps)
    for name in ("uniform, alone", "uniform, windows"):
        print_row(name, rows[name], rows["uniform, alone"])
    rows["joint"] = joint_row(judge, predictor, image, truth, cell)
    print_row("joint", rows["joint"], rows["alone"])
    bounds = {f"alone, moved by {pixels}": moved_alone(judge, cells[:pictures], pixels) for pixels in (8, cell // 2)}
    bounds["windows, half a window apart, about what both see whole"] = two_views(judge, predictor, image, cell, 8 * pictures // 3)
    for name, value in bounds.items():
        print(f"agreement of {name}: {value}", flush=True)
    return {"kind": kind, "side": side, "window": cell, "rows": rows, "bounds_of_agreement": bounds}


def uniform_rows(judge: Judge, predictor: Predictor, cells: Sequence[Cell], side: int, overlaps: Sequence[int]) -> dict[str, Any]:
    """Pictures of `side` / 2 that are mosaics of a single cell each, mirrored so that nothing in them ends at a cell's border.

    Alone is the cell as a picture of its own; of the large picture the part counts that is the cell.
    """
    overlap = sorted(overlaps)[len(overlaps) // 2]
    alone, windows, cell = [], [], cells[0].image.shape[0]
    for each in cells[:: max(1, len(cells) // 6)][:6]:
        margin = side // 2 - cell
        edges = ((MOVED[0], margin - MOVED[0]), (MOVED[1], margin - MOVED[1]))
        image = np.pad(each.image, (*edges, (0, 0)), "symmetric")
        inside = tuple(slice(before, before + cell) for before, _ in edges)
        layout = windows_of(predictor, image, cell, overlap)
        result = judge.map_of_result(merged(layout, window_results(predictor, layout, image, "uniform")))
        windows.append((each.truth, part_of(result, *inside)))
        alone.append((each.truth, judge.map_of(predictor.segment([each.image], [OPTIONS])[0])))
    return {"uniform, alone": judge.quality(alone), "uniform, windows": judge.quality(windows) | {"overlap": overlap}}


def windows_of(predictor: Predictor, image: NDArray[np.uint8], side: int, overlap: int) -> Layout:
    """Windows over a picture."""
    layout = lay_out(Tiling("fixed", side, overlap), image.shape[0], image.shape[1], predictor.plan, OPTIONS.tasks)
    assert layout is not None
    return layout


def window_results(predictor: Predictor, layout: Layout, image: NDArray[np.uint8], name: str) -> list[Segmentation]:
    """What is found in every window by itself."""
    boxes = [layout.window(index) for index in range(len(layout))]
    parts = (np.ascontiguousarray(image[box.top : box.bottom, box.left : box.right]) for box in boxes)
    return [predictor.segment([part], [OPTIONS])[0].results["panoptic"] for part in tqdm(parts, total=len(boxes), desc=name)]


def merged(layout: Layout, results: Sequence[Segmentation]) -> Segmentation:
    """The result of the picture."""
    merger = Merger("panoptic", layout)
    for result in results:
        merger.add(result.segments)
    return merged_prediction({"panoptic": merger}, layout.plan, {}, None).results["panoptic"]


def joint_row(judge: Judge, predictor: Predictor, image: NDArray[np.uint8], truth: PanopticMap, cell: int) -> dict[str, Any]:
    """The mosaic with windows that are apart in the backbone alone."""

    def segmented(picture: NDArray[np.uint8]) -> PanopticMap:
        return judge.map_of(predictor.segment_joint(picture, Tiling("joint", cell, cell // 4), OPTIONS))

    started = time.perf_counter()
    result = segmented(image)
    seconds = time.perf_counter() - started
    row = judge.quality([(truth, result)]) | {"seconds": seconds, "segments": len(result.segments)}
    return row | {"agreement": agreement(judge, image, result, cell // 2, segmented)}


def found_share(judge: Judge, pairs: Sequence[tuple[PanopticMap, PanopticMap]]) -> float:
    """Share of true things of which some result has more than half (IoU)."""
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    for truth, found in pairs:
        count_picture(counts, truth, found)
    things = [counts[category] for category in judge.things]
    true_positives = sum(each.true_positives for each in things)
    return true_positives / max(1, true_positives + sum(each.false_negatives for each in things))


def found_deepest(judge: Judge, truth: PanopticMap, layout: Layout, results: Sequence[Segmentation]) -> float:
    """Share of true things that are found by the one window in which each lies deepest: what a merge has to choose from."""
    maps = [judge.map_of_result(result) for result in results]
    found, places = [], ndimage.find_objects(truth.ids)
    for segment in (each for each in truth.segments if each.category_id in judge.things):
        rows, columns = places[segment.id - 1]
        box = Box(rows.start, columns.start, rows.stop, columns.stop)
        seeing = [index for index in range(len(layout)) if layout.window(index).covers(box)]
        if not seeing:
            continue
        best = max(seeing, key=lambda index: depth_in(layout.window(index), box, layout.size))
        window, ids = layout.window(best), maps[best].ids
        inside = truth.ids[window.top : window.bottom, window.left : window.right] == segment.id
        same_class = {each.id for each in maps[best].segments if each.category_id == segment.category_id}
        shares = [
            np.count_nonzero(inside & (ids == number)) / np.count_nonzero(inside | (ids == number))
            for number in np.unique(ids[inside]).tolist()
            if number in same_class
        ]
        found.append(max(shares, default=0.0) > 0.5)
    return float(np.mean(found))


def agreement(
    judge: Judge, image: NDArray[np.uint8], result: PanopticMap, by: int, segmented: Callable[[NDArray[np.uint8]], PanopticMap]
) -> dict[str, Any]:
    """PQ of the result of the picture without its first `by` rows and columns with the same part of the whole's result."""
    found = segmented(np.ascontiguousarray(image[by:, by:]))
    return judge.quality([(part_of(result, slice(by, None), slice(by, None)), found)])


def moved_alone(judge: Judge, cells: Sequence[Cell], pixels: int) -> dict[str, Any]:
    """PQ of pictures that are not cut with themselves, moved by so many pixels in their mirrored surroundings, as large as in windows."""
    config, categories, state = load_folder(DEFAULT_FOLDER)
    sides = {name: getattr(config.preprocess, name) * 3 // 2 for name in ("short_side", "long_side")}
    network = build_network(replace(config, preprocess=replace(config.preprocess, **sides)))
    network.load_state_dict(state)
    predictor, pairs = Predictor(network, categories), []
    for each in cells:
        side = each.image.shape[0]
        half = side // 2
        around = np.pad(each.image, ((half, half), (half, half), (0, 0)), "symmetric")
        views = []
        for at in (half, half - pixels):  # where the surroundings begin that are shown
            shown = np.ascontiguousarray(around[at : at + 3 * half, at : at + 3 * half])
            inside = slice(half - at, half - at + side)
            views.append(part_of(judge.map_of(predictor.segment([shown], [OPTIONS])[0]), inside, inside))
        pairs.append((views[0], views[1]))
    return judge.quality(pairs)


def two_views(judge: Judge, predictor: Predictor, image: NDArray[np.uint8], cell: int, count: int) -> dict[str, Any]:
    """PQ of things that two windows, moved by half their side, both see whole. Args: count: of such pairs."""
    rng, half, pairs = np.random.default_rng(0), cell // 2, []
    for _ in range(count):
        top, left = rng.integers(0, image.shape[0] - cell - half, 2)
        views = []
        for move in (0, half):
            shown = np.ascontiguousarray(image[top + move : top + move + cell, left + move : left + move + cell])
            shared = slice(half - move, cell - move)
            views.append(part_of(judge.map_of(predictor.segment([shown], [OPTIONS])[0]), shared, shared))
        pairs.append((without_cut(views[0]), without_cut(views[1])))
    things: dict[str, Any] = judge.quality(pairs)["things"]
    return things


def without_cut(view: PanopticMap) -> PanopticMap:
    """A map without what touches its rim."""
    rim = {number for line in (view.ids[0], view.ids[-1], view.ids[:, 0], view.ids[:, -1]) for number in np.unique(line).tolist()}
    kept = tuple(segment for segment in view.segments if segment.id not in rim)
    return PanopticMap(np.where(np.isin(view.ids, [segment.id for segment in kept]), view.ids, 0), kept)


def print_row(name: str, row: dict[str, Any], alone: dict[str, Any]) -> None:
    """One line of the table."""
    share = row["things"]["pq"] / alone["things"]["pq"] if row["things"]["pq"] is not None else 0.0
    line = f"{name:>12}: PQ {row['pq']:.4f} ({row['pq'] / alone['pq']:.3f} of alone)  things {row['things']['pq']:.4f} ({share:.3f})"
    line += f"  stuff {row['stuff']['pq']:.4f}" + "".join(f"  {key} {value:.3f}" for key, value in row.get("found", {}).items())
    if "agreement" in row:
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
    started, computed = time.perf_counter(), time.process_time()
    prediction = segment_picture(predictor, layout, image, SegmentationOptions(("panoptic",)))
    seconds, computed = time.perf_counter() - started, time.process_time() - computed
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    segments = len(prediction.results["panoptic"].segments)
    return {
        "side": side,
        "windows": len(layout),
        "segments": segments,
        "seconds": seconds,
        "processor_seconds": computed,
        "microseconds_per_pixel": computed * 1e6 / side**2,
        "mebibytes_beside_picture_and_network": grown / 1024,
        "seconds_merging": prediction.timings["postprocess"],
    }


def make_file(path: Path, side: int, compression: str) -> None:
    """A tiled BigTIFF of nuclei pictures. Args: compression: as GDAL calls it."""
    cells, categories = cells_of("nuclei", 60)
    tile, _ = mosaic(cells, 2048, frozenset(category.id for category in categories if not category.isthing))
    about: dict[str, Any] = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    about |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": compression, "bigtiff": "YES"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **about) as file:
            for top in range(0, side, 2048):
                rows = min(2048, side - top)
                band = np.tile(np.moveaxis(tile[:rows], -1, 0), (1, 1, -(-side // 2048)))[:, :, :side]
                file.write(band, window=((top, top + rows), (0, side)))


def file_cost(side: int, windows: str, compression: str, memory: int) -> dict[str, Any]:
    """Seconds and peak memory of the command on a file. Args: memory: MiB of its own that the process may have (RLIMIT_DATA)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        make_file(path, side, compression)
        command = [sys.executable, "-c", "from proscale.cli import main; main()", "segment", str(path), "--tile", windows, "--out", folder]
        command += [part for name in ("geojson", "ids_tiff", "parquet") for part in ("--format", name)]
        started = time.perf_counter()
        # GNU time's own child: its peak is not that of this process.
        timed = ["/usr/bin/env", "time", "-f", "%M %U %S", *command]
        limit = (memory * 2**20, memory * 2**20)
        done = subprocess.run(
            timed, check=True, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit)
        )
        seconds = time.perf_counter() - started
        peak, *processor_seconds = done.stderr.split()[-3:]
    return {
        "side": side,
        "pixels": side**2,
        "windows": windows,
        "compression": compression,
        "seconds": seconds,
        "processor_seconds": sum(map(float, processor_seconds)),
        "peak_mebibytes": int(peak) / 1024,
        "most_mebibytes": memory,
        "said": done.stdout.strip(),
    }


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=CELL, action="append", help="may be repeated; default: both")
    parser.add_argument("--side", type=int, default=2048, help="of the mosaic whose quality is measured, in pixels; 0: none")
    parser.add_argument("--overlaps", type=int, nargs="*", default=[0, 32, 64, 128])
    parser.add_argument("--pictures", type=int, default=30, help="whose agreement with themselves is measured")
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="sides whose seconds and memory are measured")
    parser.add_argument("--file-sides", type=int, nargs="*", default=[], help="sides of files that are read in parts")
    parser.add_argument("--file-windows", default="2048,128", help="`--tile` for those files")
    parser.add_argument("--file-compression", default="deflate", help="of those files, as GDAL calls it; none: they are made sooner")
    parser.add_argument("--file-memory", type=int, default=2048, help="MiB that the process may have that reads them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-cost", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    if given.one_cost:
        kind, side = given.one_cost.split(",")
        print(json.dumps(cost(kind, int(side), 64, given.threads)))
        return
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = {
        "processor": processor(),
        "command": " ".join(["python", "benchmarks/tiles.py", *sys.argv[1:]]),
        "threads": given.threads,
        "quality": [],
        "cost": [],
        "files": [],
    }

    def save() -> None:
        """So that what was measured stays when the rest takes too long."""
        if given.out:
            given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    for kind in given.kind or CELL:
        if given.side:
            measured = quality(kind, given.side, given.overlaps, given.pictures, Predictor.load())
            results["quality"].append(measured)
            print(f"{kind}, {given.side} x {given.side}, windows of {CELL[kind]}")
            for name, row in measured["rows"].items():
                print_row(name, row, measured["rows"]["uniform, alone" if name.startswith("uniform") else "alone"])
            save()
        for side in given.sizes:
            command = [sys.executable, __file__, "--one-cost", f"{kind},{side}", "--threads", str(given.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results["cost"].append(json.loads(done.stdout.splitlines()[-1]) | {"kind": kind})
            print(results["cost"][-1], flush=True)
            save()
    for side in given.file_sides:
        results["files"].append(file_cost(side, given.file_windows, given.file_compression, given.file_memory))
        print(results["files"][-1], flush=True)
        save()


if __name__ == "__main__":
    main()
