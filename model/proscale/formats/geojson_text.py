"""GeoJSON of polygons in whole pixels as text, without a Python object per corner; `geojson.dumps` of the same shapes is the slow twin."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from proscale.formats.polygons import Outlines
from proscale.formats.runs import Positions

_WITHIN, _NEXT_RING, _NEXT_POLYGON, _END = b",", b"],[", b"]],[[", b"]]]"
_LONGEST = len(_NEXT_POLYGON)


def coordinates_text(outlines: Outlines, closed: Positions, bounds: Positions) -> list[bytes]:
    """The JSON of every mask's `coordinates`, of a MultiPolygon.

    Args:
        closed: indices of all corners, a ring's first one once more behind its last.
        bounds: where each ring begins among them, with the end of all.
    """
    if not len(closed):
        return [b"[]"] * (len(outlines.masks) - 1)
    digits, used = _numbers(int(outlines.corners.max()))
    x, y = outlines.corners[closed].T
    behind = _separators(outlines, bounds)
    width = digits.shape[1]
    text = np.empty((len(closed), 2 * width + 3 + _LONGEST), np.uint8)
    shown = np.ones(text.shape, bool)
    text[:, 0], text[:, width + 1], text[:, 2 * width + 2] = b"[,]"
    text[:, 1 : width + 1], shown[:, 1 : width + 1] = digits[x], used[x]
    text[:, width + 2 : 2 * width + 2], shown[:, width + 2 : 2 * width + 2] = digits[y], used[y]
    texts = np.array([list(each.ljust(_LONGEST)) for each in (_WITHIN, _NEXT_RING, _NEXT_POLYGON, _END)], np.uint8)
    text[:, -_LONGEST:], shown[:, -_LONGEST:] = texts[behind], (texts != ord(" "))[behind]
    ends = np.cumsum(shown.sum(1))
    written = text[shown].tobytes()
    # Corners, and so bytes, that every mask ends with.
    last = bounds[outlines.polygons[outlines.masks]]
    places = np.concatenate([[0], ends])[last].tolist()
    return [b"[[[" + written[a:b] if b > a else b"[]" for a, b in pairwise(places)]


def _separators(outlines: Outlines, bounds: Positions) -> NDArray[np.uint8]:
    """What stands behind every corner: 0 within a ring, 1 at its end, 2 at a polygon's, 3 at a mask's."""
    behind = np.zeros(int(bounds[-1]), np.uint8)
    for level, ends in enumerate((bounds, bounds[outlines.polygons], bounds[outlines.polygons[outlines.masks]]), 1):
        behind[ends[ends > 0] - 1] = level
    return behind


def _numbers(largest: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Digits of the numbers from 0 to the largest, (N, D), right-aligned, and which of them are written."""
    width = len(str(largest))
    powers = 10 ** np.arange(width - 1, -1, -1)
    numbers = np.arange(largest + 1)[:, None]
    used = numbers >= powers
    used[:, -1] = True
    return (numbers // powers % 10 + ord("0")).astype(np.uint8), used
