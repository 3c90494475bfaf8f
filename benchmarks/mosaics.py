"""Mosaics whose truth is known, for `tiles.py`: stitched from nuclei pictures or drawn scenes; and what compares results with it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.datasets import PanopticMap, PanopticSegment
from proscale.datasets.find_layout import open_dataset
from proscale.evaluation.drawn_scenes import drawn_scenes
from proscale.evaluation.panoptic_quality import ClassCount, count_picture, mean_quality
from proscale.evaluation.picture_reading import read_rgb
from proscale.evaluation.predicted import panoptic_map
from proscale.labels import Category
from proscale.predictor import Predictor
from proscale.results import Prediction, Segmentation
from proscale.tiles import Layout

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
        return self.map_of_result(prediction.results["panoptic"])

    def map_of_result(self, result: Segmentation) -> PanopticMap:
        """A panoptic result as a map."""
        return panoptic_map(result, self.to_data, self.stuff)

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


def part_of(whole: PanopticMap, rows: slice, columns: slice) -> PanopticMap:
    """A part of a map."""
    ids = np.ascontiguousarray(whole.ids[rows, columns])
    present = set(np.unique(ids).tolist())
    return PanopticMap(ids, tuple(segment for segment in whole.segments if segment.id in present))
