"""Masks -> PNGs of the picture's size, from the pixels of their boxes alone: what lies above and below a box is written without being made.

A PNG's pixels are one zlib stream (RFC 1950, 1951). Rows of zeros are pieces of such a stream that are the same in every picture, so that
a hundred masks of a huge picture cost what their boxes cost. The reference form is Pillow: it reads these files back to the same pixels.
"""

import struct
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from proscale.formats.png import LEVEL, assembled
from proscale.results import Segment
from proscale.rle import decode

_ADLER = 65521
_ZLIB_HEADER, _LAST_BLOCK = b"\x78\x01", b"\x03\x00"
_GREY = 0


def mask_png(segment: Segment, *, bits: int = 1) -> bytes:
    """A black-and-white PNG of a segment's mask, at the size of the picture.

    Args:
        bits: per pixel, 1 or 8; with 8, white is 255.
    """
    height, width = segment.segmentation.size
    x, y, columns, rows = segment.bbox
    row_bytes = 1 + (width * bits + 7) // 8  # a filter's number, which is 0, and the pixels
    inside = _rows(decode(segment.segmentation, segment.bbox), x, row_bytes, bits) if rows and columns else b""
    above, below = y * row_bytes, (height - y - rows) * row_bytes
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(inside) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = _adler_after_zeros(zlib.adler32(inside, _adler_after_zeros(1, above)), below)
    stream = b"".join([_ZLIB_HEADER, _zeros(above), body, _zeros(below), _LAST_BLOCK, struct.pack(">I", checksum)])
    return assembled((height, width), bits, _GREY, stream)


def _rows(mask: NDArray[np.bool_], left: int, row_bytes: int, bits: int) -> bytes:
    """Rows of the whole width with a mask's pixels in them."""
    rows = np.zeros((len(mask), row_bytes), np.uint8)
    if bits == 8:
        rows[:, 1 + left : 1 + left + mask.shape[1]] = mask * np.uint8(255)
    else:
        packed = np.packbits(np.pad(mask, ((0, 0), (left % 8, 0))), axis=1)
        rows[:, 1 + left // 8 : 1 + left // 8 + packed.shape[1]] = packed
    return rows.tobytes()


def _zeros(count: int) -> bytes:
    """So many zeros as blocks of a deflate stream that end at a byte."""
    return b"".join(_power_of_zeros(power) for power in range(count.bit_length()) if count >> power & 1)


@lru_cache(maxsize=64)
def _power_of_zeros(power: int) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(1 << power)) + packer.flush(zlib.Z_FULL_FLUSH)


def _adler_after_zeros(checksum: int, count: int) -> int:
    """Adler-32 of data and so many zeros behind it: the sum of bytes stays, the sum of sums grows by it every time."""
    low, high = checksum & 0xFFFF, checksum >> 16
    return (high + count * low) % _ADLER << 16 | low
