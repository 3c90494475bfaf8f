"""TIFFs that Pillow does not read, or reads wrongly, read by tifffile: planes of 16 bits, grey with alpha, 10 to 14 bits."""

import io
import logging
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from proscale.errors import UndecodablePictureError
from proscale.pictures.formats import INSTALL
from proscale.pictures.orientation import SWAPS_SIDES
from proscale.pictures.records import Samples
from proscale.pictures.tiff_pages import Page, Tag

_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4}
"""Samples of a pixel by photometric interpretation: WhiteIsZero, BlackIsZero, RGB, CMYK."""
_WHITE_IS_ZERO = 0
_COMPRESSIONS = {1, 5, 8, 32773, 32946, 34925, 50000}
"""None, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard: all lossless, and all notice damage or have none to notice."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
_PROFILE = 34675
_MOST_BITS = 16


def covers(page: Page) -> bool:
    """Whether `PlanesTiff` reads a page right: unsigned samples of one depth, at most 16 bits, without loss."""
    bits = set(page.tags.get(Tag.BITS, (1,)))
    colours = _COLOURS.get(page.get(Tag.PHOTOMETRIC, -1), 0)
    samples = page.get(Tag.SAMPLES, 1)
    return (
        len(bits) == 1
        and 1 < max(bits) <= _MOST_BITS
        and 0 < colours <= samples == colours + len(page.tags.get(Tag.EXTRA, ()))
        and set(page.tags.get(Tag.FORMAT, (1,))) == {1}
        and page.get(Tag.COMPRESSION, 1) in _COMPRESSIONS
        and page.get(Tag.INKS, 1) == 1
    )


class PlanesTiff:
    """A page before it is decoded; stands where Pillow's image stands for other files."""

    def __init__(self, data: bytes, page: Page) -> None:
        """Args: data: a file whose first page is `page`, which `covers` takes."""
        self._data, self._page = data, page
        height, width = page.get(Tag.HEIGHT, 0), page.get(Tag.WIDTH, 0)
        self.orientation = page.get(Tag.ORIENTATION, 1) if page.get(Tag.ORIENTATION, 1) in range(1, 9) else 1
        # As Pillow states them: already turned.
        self.height, self.width = (width, height) if self.orientation in SWAPS_SIDES else (height, width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to give back."""

    def getexif(self) -> dict[int, int]:
        """EXIF tags: the orientation."""
        return {Tag.ORIENTATION: self.orientation}

    def samples(self) -> Samples:
        """The samples, still to be turned.

        Raises:
            UndecodablePictureError: packages are missing; or a strip lies outside the file, or is broken.
        """
        pixels, profile = self._decoded()
        page = self._page
        colours, bits = _COLOURS[page.get(Tag.PHOTOMETRIC, 0)], page.get(Tag.BITS, 1)
        white, colour, extra = (1 << bits) - 1, pixels[:, :, :colours], page.tags.get(Tag.EXTRA, ())
        if page.get(Tag.PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
            colour = white - colour
        alpha = None
        if extra[:1] in ((_ASSOCIATED,), (_UNASSOCIATED,)):
            opacity = pixels[:, :, colours].astype(np.float32) / white
            alpha = np.round(opacity * 255).astype(np.uint8)
            if extra[0] == _ASSOCIATED:  # colours were multiplied with it
                straight = np.divide(colour, opacity[:, :, None], out=np.zeros(colour.shape, np.float32), where=opacity[:, :, None] > 0)
                colour = np.clip(np.round(straight), 0, white).astype(colour.dtype)
        return Samples(colour[:, :, 0] if colours == 1 else colour, white, alpha, profile, self.orientation, deep=bits == _MOST_BITS)

    def _decoded(self) -> tuple[NDArray[Any], bytes | None]:
        """(H, W, samples) unsigned integers, not turned, and the ICC profile."""
        try:
            import tifffile  # of an extra, and slow to import
        except ImportError as error:
            raise UndecodablePictureError(f"TIFFs of this kind need packages that are not installed here: {INSTALL}") from error
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of broken files is said by the error
        with tifffile.TiffFile(io.BytesIO(self._data)) as file:
            found = file.pages.first
            for offset, count in zip(found.dataoffsets, found.databytecounts, strict=True):
                if not count or offset + count > len(self._data):
                    raise UndecodablePictureError("the TIFF is broken or cut off: a strip or tile lies outside the file")
            # (planes, 1, H, W, samples of a pixel that stand together)
            pixels: NDArray[Any] = found.asarray(squeeze=False, maxworkers=1)[:, 0]
            profile = found.tags.get(_PROFILE)
        pixels = np.moveaxis(pixels[..., 0], 0, 2) if len(pixels) > 1 else pixels[0]
        return pixels, None if profile is None else bytes(profile.value)
