"""Files whose EXIF orientation turns the picture, read in parts: a band of the upright picture is rows or columns as stored."""

import mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.pictures.large.decoders import Georeference, RowDecoder, SlideDecoder, open_stored
from proscale.pictures.orientation import SWAPS_SIDES, orientation_in_exif, orientation_of
from proscale.pictures.png import SIGNATURE, chunks
from proscale.pictures.records import Samples

_FROM_BEHIND = {3, 4, 7, 8}
"""Orientations whose first upright row is the last row or column as stored."""
_TO_STORED = {
    2: ((-1, 0, "w"), (0, 1, "")),
    3: ((-1, 0, "w"), (0, -1, "h")),
    4: ((1, 0, ""), (0, -1, "h")),
    5: ((0, 1, ""), (1, 0, "")),
    6: ((0, 1, ""), (-1, 0, "h")),
    7: ((0, -1, "w"), (-1, 0, "h")),
    8: ((0, -1, "w"), (1, 0, "")),
}
"""Orientation -> how a place (x, y) as stored follows from an upright one: factors of x and y, and the stored width or height."""


class PartDecoder(Protocol):
    """A file of which any part can be read."""

    format: str
    height: int
    width: int
    georeference: Georeference | None

    def part(self, top: int, left: int, bottom: int, right: int) -> Samples:
        """A rectangle as stored; ends are the first pixels behind it. Raises UndecodablePictureError when the file is broken there."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class TurnedDecoder:
    """A decoder whose rows are those of the upright picture.

    Where orientation swaps the sides, a band is columns as stored, and files without tiles are gone through once for each.
    """

    def __init__(self, stored: PartDecoder, orientation: int) -> None:
        """Args: orientation: of the EXIF standard, 2..8."""
        self._stored, self.orientation = stored, orientation
        self._swaps = orientation in SWAPS_SIDES
        self.format = stored.format
        self.height, self.width = (stored.width, stored.height) if self._swaps else (stored.height, stored.width)
        place = stored.georeference
        self.georeference = None if place is None else self._upright(place)
        self.bands, self.all_bands = getattr(stored, "bands", ()), getattr(stored, "all_bands", 0)

    def rows(self, top: int, bottom: int) -> Samples:
        """See `RowDecoder`."""
        if self.orientation in _FROM_BEHIND:
            top, bottom = self.height - bottom, self.height - top
        stored = self._stored
        samples = stored.part(0, top, stored.height, bottom) if self._swaps else stored.part(top, 0, bottom, stored.width)
        alpha = None if samples.alpha is None else self._turned(samples.alpha)
        return Samples(self._turned(samples.pixels), samples.white, alpha, samples.profile, 1, samples.deep)

    def close(self) -> None:
        """See `RowDecoder`."""
        self._stored.close()

    def _turned(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.orientation in (2, 3, 7, 8):
            values = values[:, ::-1]
        if self.orientation in (3, 4, 6, 7):
            values = values[::-1]
        return np.ascontiguousarray(values.swapaxes(0, 1) if self._swaps else values)

    def _upright(self, place: Georeference) -> Georeference:
        a, b, c, d, e, f = place.affine
        sides = {"": 0, "w": self._stored.width, "h": self._stored.height}
        (xx, xy, x0), (yx, yy, y0) = _TO_STORED[self.orientation]
        x, y = sides[x0], sides[y0]
        affine = (a * xx + b * yx, a * xy + b * yy, a * x + b * y + c, d * xx + e * yx, d * xy + e * yy, d * x + e * y + f)
        return Georeference(affine, place.crs)


def open_decoder(path: Path) -> RowDecoder:
    """The decoder for a file, whose rows are those of the upright picture. Errors: see `open_stored`."""
    stored = open_stored(path)
    if isinstance(stored, SlideDecoder):
        return stored
    orientation = orientation_of_file(path)
    return stored if orientation == 1 else TurnedDecoder(stored, orientation)


def orientation_of_file(path: Path) -> int:
    """EXIF orientation 1..8 of a file of any size, without decoding it; 1 where it says none."""
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            try:
                with Image.open(path) as image:
                    return orientation_of(image)
            except Exception:
                return 1  # another reader will say what is wrong, or read what Pillow cannot
        # Pillow would decode all of a PNG to see whether EXIF follows its pixels.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for kind, start, end in chunks(data):
                if kind == b"eXIf":
                    return orientation_in_exif(data[start + 8 : max(start + 8, end - 4)])
    return 1
