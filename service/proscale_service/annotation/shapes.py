"""Segments -> what annotation tools hold: CVAT's runs, Label Studio's brush strokes and bitmasks, polygons without holes."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.formats.geojson import simplified
from proscale.formats.polygons import Polygon, outlines_of, signed_area, trace
from proscale.results import RLE, Segment
from proscale.rle import decode

CHANNELS = 4
"""Brush strokes are RGBA."""
_WORD_BITS = 8
_SLOTS = (8, 16)
"""Bits of a run's length; the shorter where it suffices."""


def cvat_points(segment: Segment) -> list[int]:
    """A mask as CVAT writes it: run lengths of its box, row by row, zeros first; then left, top, right and bottom, all inclusive.

    Raises:
        ValueError: the mask is empty, which CVAT has no shape for.
    """
    x, y, width, height = segment.bbox
    if not segment.area:
        raise ValueError("an empty mask has no shape in CVAT")
    flat = decode(segment.segmentation, segment.bbox).ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths = np.diff(edges).tolist()
    return [*([0] if flat[0] else []), *lengths, x, y, x + width - 1, y + height - 1]


def outlines(rle: RLE, simplify: float) -> list[NDArray[np.float64]]:
    """The outer rings of a mask's pieces, the largest first, for tools whose polygons have no holes: (N, 2) x and y in pixels.

    Args:
        simplify: tolerance in pixels; 0: along pixel edges.
    """
    pieces: Sequence[Polygon] = [Polygon(piece.exterior, ()) for piece in trace(rle)]
    if simplify > 0:
        pieces = simplified(outlines_of([pieces]), simplify).polygons_of(0)
    rings = [piece.exterior.astype(float) for piece in pieces if len(piece.exterior) >= 3]
    return sorted(rings, key=lambda ring: -abs(signed_area(ring.astype(np.int64))))


def brush_rle(rle: RLE) -> list[int]:
    """A mask as Label Studio's brush stroke: rle-pack over the bytes of an RGBA picture, which is 255 inside the mask and 0 outside.

    The layout is a stream of bits, most significant first: the number of values in 32 bits, a value's bits less one in 5, four run-length
    sizes less one in 4 each; then runs, each a 1, the size's index in 2 bits, the length less one, the value.
    """
    height, width = rle.size
    flat = decode(rle).ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths, values = np.diff(edges) * CHANNELS, flat[edges[:-1]]
    # A run that is longer than its size can say is several.
    most = 1 << _SLOTS[1]
    parts = -(-lengths // most)
    owner = np.repeat(np.arange(len(lengths)), parts)
    last = np.cumsum(parts) - 1
    pieces = np.full(len(owner), most)
    pieces[last] = lengths - (parts - 1) * most
    head = [
        *_bits(height * width * CHANNELS, 32),
        *_bits(_WORD_BITS - 1, 5),
        *(bit for size in (3, 4, *_SLOTS) for bit in _bits(size - 1, 4)),
    ]
    body = _run_bits(pieces - 1, values[owner])
    packed: list[int] = np.packbits(np.concatenate([np.array(head, np.uint8), body])).tolist()
    return packed


def _run_bits(lengths: NDArray[np.int64], ones: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The bits of all runs. Args: lengths less one, values as bool."""
    short = lengths < (1 << _SLOTS[0])
    bits = np.zeros((len(lengths), 3 + _SLOTS[1] + _WORD_BITS), np.uint8)
    bits[:, 0] = bits[:, 1] = 1
    bits[:, 2] = ~short  # sizes 2 and 3 of the four
    bits[:, 3 : 3 + _SLOTS[1]] = lengths[:, None] >> np.arange(_SLOTS[1] - 1, -1, -1) & 1
    bits[:, 3 + _SLOTS[1] :] = ones[:, None]
    kept = np.ones(bits.shape, bool)
    kept[:, 3 : 3 + _SLOTS[1] - _SLOTS[0]] = ~short[:, None]
    return bits[kept]


def bitmask_url(rle: RLE) -> str:
    """A mask as Label Studio's bitmask: a data URL of a PNG, white and opaque inside, black and clear outside."""
    mask = decode(rle)
    stored = io.BytesIO()
    Image.fromarray((mask * np.uint8(255))[..., None].repeat(CHANNELS, 2)).save(stored, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()


def _bits(value: int, count: int) -> list[int]:
    return [value >> position & 1 for position in range(count - 1, -1, -1)]
