"""Segments -> CSV, one line each, for people who count and measure."""

import csv
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.results import Segmentation
from proscale.rle import decode

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


def write_table(segmentation: Segmentation, image: NDArray[np.uint8] | None = None) -> str:
    """The table as CSV with a header line (RFC 4180).

    Lengths and areas are in pixels; a pixel's centre lies at whole numbers, as in scikit-image. `mean_intensity` is the mean over the
    mask of the luma 0.299 R + 0.587 G + 0.114 B, 0..255; empty without a picture.

    Args:
        image: (H, W, 3) uint8 RGB, the oriented picture of the segmentation's size.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for segment in segmentation.segments:
        mask = decode(segment.segmentation, segment.bbox)
        x, y, width, height = segment.bbox
        rows, columns = mask.sum(1), mask.sum(0)
        area = max(1, segment.area)
        centre_x = x + float(columns @ np.arange(width)) / area if segment.area else ""
        centre_y = y + float(rows @ np.arange(height)) / area if segment.area else ""
        fixed = [
            segment.id,
            segment.label,
            segment.category_id,
            int(segment.isthing),
            round(segment.score, 6),
            segment.area,
            x,
            y,
            width,
            height,
        ]
        diameter = 2 * math.sqrt(segment.area / math.pi)
        writer.writerow([*fixed, *map(_rounded, (centre_x, centre_y, perimeter(mask), diameter, _intensity(image, segment.bbox, mask)))])
    return text.getvalue()


def perimeter(mask: NDArray[np.bool_]) -> float:
    """Length of a mask's outline in pixels, through the centres of its border pixels (Benkrid and Crookes 2000), as in scikit-image."""
    padded = np.pad(mask, 2)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border = (padded[1:-1, 1:-1] & ~inside).astype(np.uint8)
    beside = border[:-2, 1:-1] + border[2:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    across = border[:-2, :-2] + border[:-2, 2:] + border[2:, :-2] + border[2:, 2:]
    counts = np.bincount((border[1:-1, 1:-1] + 2 * beside + 10 * across).ravel(), minlength=64)
    return float(sum(length * counts[list(codes)].sum() for length, codes in _STEP_LENGTHS.items()))


def _intensity(image: NDArray[np.uint8] | None, box: tuple[int, int, int, int], mask: NDArray[np.bool_]) -> float | str:
    if image is None or not mask.any():
        return ""
    x, y, width, height = box
    return float(image[y : y + height, x : x + width][mask].mean(0) @ (0.299, 0.587, 0.114))


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
