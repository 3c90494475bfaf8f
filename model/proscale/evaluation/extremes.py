"""Pictures of good and bad results, chosen by rule: the best, the median and the worst of a data set by their own PQ."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.datasets import AnnotatedPicture, PanopticMap
from proscale.errors import DataError
from proscale.evaluation.picture_reading import read_rgb
from proscale.evaluation.predicted import Source
from proscale.labels import Category
from proscale.overlay import draw_overlay
from proscale.results import Segment, Segmentation
from proscale.rle import encode_id_map, measure

SIDE = 480
"""Longest side of one panel, in pixels."""
GAP = 8
LABELLED = 20
"""Segments are named where there are no more."""

Judged = tuple[float, AnnotatedPicture]
"""A picture and its PQ: mean over the classes that occur in it."""


def choose_extremes(judged: Sequence[Judged]) -> dict[str, Judged]:
    """`best`, `median` (the lower one of two) and `worst`; of equal ones the first.

    Raises:
        DataError: there is no picture with a PQ.
    """
    if not judged:
        raise DataError("there are no pictures to draw: they are chosen by PQ, so data set and results must both be panoptic")
    ordered = sorted(judged, key=lambda pair: pair[0])
    best = max(judged, key=lambda pair: pair[0])
    return {"best": best, "median": ordered[(len(ordered) - 1) // 2], "worst": ordered[0]}


def draw_extremes(source: Source, categories: Sequence[Category], judged: Sequence[Judged], folder: Path) -> dict[str, Path]:
    """Write `best.jpg`, `median.jpg` and `worst.jpg`: the picture, what is true, what was found.

    Args:
        categories: the data set's that are judged.

    Returns:
        the files with their names.

    Raises:
        DataError: nothing to draw, or a file cannot be written.
    """
    files = {}
    for name, (_, picture) in choose_extremes(judged).items():
        found = source.predict(picture, ("panoptic",)).panoptic
        assert picture.read_panoptic is not None  # it has been judged by them
        assert found is not None
        image = read_rgb(picture)
        panels = [image, *(_overlay(image, panoptic, categories) for panoptic in (picture.read_panoptic(), found))]
        files[name] = folder / f"{name}.jpg"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_beside([_fitted(panel) for panel in panels])).save(files[name], quality=85)
        except OSError as error:
            raise DataError(f"{files[name]} cannot be written: {error.strerror or error}") from error
    return files


def as_segmentation(panoptic: PanopticMap, categories: Sequence[Category]) -> Segmentation:
    """A panoptic map as a result, whose scores of 1 say nothing; segments of other categories and those without pixels are left out."""
    known = {category.id: category for category in categories}
    wanted = [segment for segment in panoptic.segments if segment.category_id in known]
    masks = encode_id_map(panoptic.ids, [segment.id for segment in wanted])
    segments: list[Segment] = []
    for segment in wanted:
        area, bbox = measure(masks[segment.id])
        if area:
            category = known[segment.category_id]
            number = len(segments) + 1
            segments.append(Segment(number, category.id, category.name, category.isthing, 1.0, bbox, area, masks[segment.id]))
    return Segmentation("panoptic", (panoptic.ids.shape[0], panoptic.ids.shape[1]), tuple(segments))


def _overlay(image: NDArray[np.uint8], panoptic: PanopticMap, categories: Sequence[Category]) -> NDArray[np.uint8]:
    shown = as_segmentation(panoptic, categories)
    return draw_overlay(image, shown, labels=len(shown.segments) <= LABELLED, scores=False)  # truth has none


def _fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """No side longer than a panel's; smaller pictures stay as they are."""
    fitted = Image.fromarray(image)
    fitted.thumbnail((SIDE, SIDE))
    return np.asarray(fitted)


def _beside(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    white = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (panel, white)][:-1]
    return np.concatenate(parts, axis=1)
