"""Segments -> CSV, one line each, for people who count and measure."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from proscale.formats.runs import ColumnRuns, Positions, SideBySide, side_by_side
from proscale.results import Segmentation

COLUMNS = (
    "id",
    "label",
    "category_id",
    "isthing",
    "score",
    "area",
    "bbox_x",
    "bbox_y",
    "bbox_width",
    "bbox_height",
    "centroid_x",
    "centroid_y",
    "perimeter",
    "equivalent_diameter",
    "mean_intensity",
)
_DIAGONAL = math.sqrt(2)
# Benkrid and Crookes (2000): how far the outline goes at a border pixel, by how many border pixels lie beside (2 each) and across (10
# each) of it, itself counting 1.
_STEP_LENGTHS = {1.0: (5, 7, 15, 17, 25, 27), _DIAGONAL: (21, 33), (1 + _DIAGONAL) / 2: (13, 23)}
_COLUMNS_AT_ONCE = 64


def write_table(segmentation: Segmentation, image: NDArray[np.uint8] | None = None) -> str:
    """The table as CSV with a header line (RFC 4180).

    Lengths and areas are in pixels; a pixel's centre lies at whole numbers, as in scikit-image. `mean_intensity` is the mean over the
    mask of the luma 0.299 R + 0.587 G + 0.114 B, 0..255; empty without a picture.

    Args:
        image: (H, W, 3) uint8 RGB, the oriented picture of the segmentation's size.
    """
    masks = side_by_side([segment.segmentation for segment in segmentation.segments])
    measured = [*centroids(masks), perimeters(masks), *([] if image is None else [intensities(masks, image)])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for segment, values in zip(segmentation.segments, zip(*(each.tolist() for each in measured), strict=True), strict=True):
        # An empty mask has no centre and no intensity.
        centre_x, centre_y, outline, *intensity = ("" if math.isnan(value) else round(value, 3) for value in values)
        known = (segment.id, segment.label, segment.category_id, int(segment.isthing), round(segment.score, 6), segment.area, *segment.bbox)
        diameter = round(2 * math.sqrt(segment.area / math.pi), 3)
        writer.writerow([*known, centre_x, centre_y, outline, diameter, *(intensity or [""])])
    return text.getvalue()


def centroids(masks: SideBySide) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the masks' centres of gravity in pixels, (N,) each; NaN of an empty mask."""
    runs, owners = masks.runs, masks.owners
    lengths = runs.bottoms - runs.tops
    areas = _areas(masks)
    x = np.bincount(owners, lengths * masks.columns, masks.count) / areas
    y = np.bincount(owners, lengths * (runs.tops + runs.bottoms - 1), masks.count) / (2 * areas)
    return x, y


def _areas(masks: SideBySide) -> NDArray[np.float64]:
    """Pixels of each mask, (N,); NaN of an empty one, which has no means."""
    areas = np.bincount(masks.owners, masks.runs.bottoms - masks.runs.tops, masks.count).astype(float)
    areas[areas == 0] = math.nan
    return areas


def perimeters(masks: SideBySide) -> NDArray[np.float64]:
    """Length of the masks' outlines in pixels, (N,), as in scikit-image: through the centres of border pixels (Benkrid, Crookes 2000)."""
    runs = masks.runs
    if not len(runs):
        return np.zeros(masks.count)
    # One row and one column around, so that a neighbour's place always differs from every other pixel's.
    stride = runs.size[0] + 2
    border = _border(replace(runs, columns=runs.columns + 1, tops=runs.tops + 1, bottoms=runs.bottoms + 1), stride)
    beside, across = np.zeros(len(border), np.int64), np.zeros(len(border), np.int64)
    for step, counts in ((1, beside), (stride, beside), (stride - 1, across), (stride + 1, across)):
        near = np.searchsorted(border, border + step)
        there = np.flatnonzero(border[np.minimum(near, len(border) - 1)] == border + step)
        counts[there] += 1
        counts[near[there]] += 1
    codes = 1 + 2 * beside + 10 * across
    of_mask = (border // stride - 1) // masks.stride
    lengths = np.zeros(masks.count)
    for length, turns in _STEP_LENGTHS.items():
        lengths += length * np.bincount(of_mask[np.isin(codes, turns)], minlength=masks.count)
    return lengths


def _border(runs: ColumnRuns, stride: int) -> Positions:
    """Pixels of a mask that lack a neighbour (left, right, above, below) in it: column * stride + row, in order."""
    starts, ends = runs.columns * stride + runs.tops, runs.columns * stride + runs.bottoms
    # The pixel itself, and those whose left, whose right and whose upper and lower neighbours are there; a run of one pixel has none.
    long = ends - starts > 1
    places = (starts, ends, starts + stride, ends + stride, starts - stride, ends - stride, starts[long] + 1, ends[long] - 1)
    own = 4
    steps = np.repeat([own, -own, 1, -1, 1, -1, 1, -1], [len(each) for each in places])
    everything = np.concatenate(places)
    order = np.argsort(everything, kind="stable")
    sorted_places, state = everything[order], np.cumsum(steps[order])
    wanted = np.flatnonzero((state[:-1] >= own) & (state[:-1] < own + 3) & (sorted_places[1:] > sorted_places[:-1]))
    first, lengths = sorted_places[wanted], sorted_places[wanted + 1] - sorted_places[wanted]
    pixels: Positions = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
    return pixels


def intensities(masks: SideBySide, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean luma over each mask, (N,), 0..255; NaN of an empty mask. Args: image: (H, W, 3) uint8 RGB."""
    order = np.argsort(masks.columns, kind="stable")
    columns, tops, bottoms = masks.columns[order], masks.runs.tops[order], masks.runs.bottoms[order]
    sums = np.empty(len(order))
    for left in range(0, image.shape[1], _COLUMNS_AT_ONCE):
        low, high = np.searchsorted(columns, (left, left + _COLUMNS_AT_ONCE))
        if low == high:
            continue
        strip = image[:, left : left + _COLUMNS_AT_ONCE]
        # In thousandths, which floats hold exactly; from the top down, so that a run's sum is a difference.
        luma = sum(strip[..., channel] * np.float32(weight) for channel, weight in enumerate((299, 587, 114)))
        down = np.zeros((len(image) + 1, strip.shape[1]))
        np.cumsum(luma, axis=0, dtype=np.float64, out=down[1:])
        at = columns[low:high] - left
        sums[low:high] = down[bottoms[low:high], at] - down[tops[low:high], at]
    mean: NDArray[np.float64] = np.bincount(masks.owners[order], sums, masks.count) / (1000 * _areas(masks))
    return mean
