"""BMPs with palettes, and BMPs whose masks say where in a pixel its channels are: Pillow knows few of these.

Pillow takes no masks but the usual ones, no 2 bits, and reads a palette of 2 or 16 greys as if it were not there.
The layout is that of Microsoft's BITMAPCOREHEADER, BITMAPINFOHEADER and their successors up to version 5.
"""

import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from proscale.errors import UndecodablePictureError
from proscale.pictures.records import Samples
from proscale.pictures.transparency import meaningful

_FILE_HEADER = 14
_CORE, _INFO, _SIZES = 12, 40, {12, 40, 52, 56, 108, 124}
_MASKS_AT, _MASKS_END = 54, 70
"""Masks stand there, behind a header of version 3 as well as within those of later versions."""
_RAW, _BIT_FIELDS, _ALPHA_BIT_FIELDS = 0, 3, 6
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
"""Of 32-bit pixels; some writers announce masks and leave them 0."""


@dataclass(frozen=True)
class _Layout:
    """What a header says."""

    width: int
    height: int
    top_down: bool
    bits: int
    """Of a pixel."""
    start: int
    """Of the pixels in the file."""
    palette: tuple[int, int, int] | None
    """Its offset, its number of entries and the bytes of one; None: masks say where the channels are."""
    masks: tuple[int, int, int, int]
    """Red, green, blue, alpha."""


def open_bmp(data: bytes) -> "PixelsBmp | None":
    """A BMP of the kinds that are read here; None: Pillow reads it, or says what is wrong with it."""
    layout = _layout(data)
    return None if layout is None else PixelsBmp(data, layout)


class PixelsBmp:
    """A BMP before it is decoded; stands where Pillow's image stands for other files."""

    def __init__(self, data: bytes, layout: _Layout) -> None:
        """Args: layout: what the header of `data` says."""
        self._data, self._layout = data, layout
        self.height, self.width = layout.height, layout.width

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to give back."""

    def samples(self) -> Samples:
        """The samples.

        Raises:
            UndecodablePictureError: the file ends before the pixels do, or masks have no meaning.
        """
        rows = self._rows()
        return self._of_palette(rows) if self._layout.palette is not None else self._of_masks(rows)

    def _rows(self) -> NDArray[np.uint8]:
        """(H, bytes of a row), from the top."""
        layout = self._layout
        stride = (layout.width * layout.bits + 31) // 32 * 4
        if layout.start + stride * layout.height > len(self._data):
            raise UndecodablePictureError("the picture is broken or cut off: the BMP ends before its last pixel")
        rows = np.frombuffer(self._data, np.uint8, stride * layout.height, layout.start).reshape(layout.height, stride)
        return rows if layout.top_down else rows[::-1]

    def _of_palette(self, rows: NDArray[Any]) -> Samples:
        layout = self._layout
        assert layout.palette is not None
        at, count, size = layout.palette
        table = np.zeros((1 << layout.bits, 3), np.uint8)  # an index behind the palette is black
        entries = np.frombuffer(self._data[at : at + count * size], np.uint8).reshape(-1, size)[: len(table), 2::-1]
        table[: len(entries)] = entries
        each = 8 // layout.bits
        if each > 1:  # the leftmost pixel in the highest bits
            shifts = np.arange(8 - layout.bits, -1, -layout.bits, dtype=np.uint8)
            rows = (rows[:, :, None] >> shifts & ((1 << layout.bits) - 1)).reshape(len(rows), -1)
        grey = bool((table == table[:, :1]).all())
        return Samples((table[:, 0] if grey else table)[rows[:, : layout.width]])

    def _of_masks(self, rows: NDArray[np.uint8]) -> Samples:
        layout = self._layout
        pixels = np.ascontiguousarray(rows).view(f"<u{layout.bits // 8}")[:, : layout.width]
        depths = [mask.bit_count() for mask in layout.masks[:3]]
        channels = [_channel(pixels, mask) for mask in layout.masks]
        deep = 65535 if len(set(depths)) > 1 else (1 << depths[0]) - 1
        white = deep if max(depths) > 8 else 255
        colours = np.dstack([_scaled(values, depth, white) for values, depth in zip(channels[:3], depths, strict=True)])
        alpha = meaningful(_scaled(channels[3], layout.masks[3].bit_count(), 255).astype(np.uint8)) if layout.masks[3] else None
        return Samples(colours.astype(np.uint8 if white == 255 else np.uint16), white, alpha)


def _layout(data: bytes) -> _Layout | None:
    """What the header says; None: it is of another kind, or not all there."""
    if len(data) < _FILE_HEADER + _INFO:
        return None
    start, header = struct.unpack_from("<II", data, 10)
    if header not in _SIZES:
        return None
    if header == _CORE:
        width, height, _, bits = struct.unpack_from("<4H", data, _FILE_HEADER + 4)
        compression, count, entry = _RAW, 0, 3
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, _FILE_HEADER + 4)
        count, entry = struct.unpack_from("<I", data, 46)[0], 4
    masks = (0, 0, 0, 0)
    palette = None
    if compression == _RAW and bits in (1, 2, 4, 8):
        at = _FILE_HEADER + header
        palette = (at, min(count or 256, 1 << bits, max(0, start - at) // entry, max(0, len(data) - at) // entry), entry)
    elif compression in (_BIT_FIELDS, _ALPHA_BIT_FIELDS) and bits in (16, 32) and len(data) >= _MASKS_END:
        red, green, blue, alpha = struct.unpack_from("<4I", data, _MASKS_AT)
        has_alpha = header >= 56 or compression == _ALPHA_BIT_FIELDS
        masks = (red, green, blue, alpha if has_alpha else 0)
        if not any(masks) and bits == 32:
            masks = _USUAL_MASKS
        _check_masks(masks, bits)
    else:
        return None
    return _Layout(width, abs(height), height < 0, bits, start, palette, masks)


def _check_masks(masks: tuple[int, ...], bits: int) -> None:
    """Raise UndecodablePictureError for masks that are no channels."""
    together = 0
    for mask in masks:
        low = mask & -mask
        if mask >= 1 << bits or mask & together or (mask and mask // low & (mask // low + 1)) or mask.bit_count() > 16:
            raise UndecodablePictureError(f"the BMP's channel masks have no meaning: {', '.join(map(hex, masks))}")
        together |= mask
    if not all(masks[:3]):
        raise UndecodablePictureError(f"the BMP's channel masks lack a colour: {', '.join(map(hex, masks))}")


def _channel(pixels: NDArray[Any], mask: int) -> NDArray[Any]:
    """Its values, as they are stored."""
    shift = max(0, (mask & -mask).bit_length() - 1)
    values: NDArray[Any] = pixels >> pixels.dtype.type(shift) & pixels.dtype.type(mask >> shift)
    return values


def _scaled(values: NDArray[Any], depth: int, white: int) -> NDArray[Any]:
    """Values of `depth` bits spread over 0 to `white`, rounded to the nearest."""
    most = (1 << depth) - 1
    return values if most == white else (values.astype(np.uint32) * white + most // 2) // most
