"""A large file as a picture whose windows are read one row of windows after the other: one band of rows is in memory."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from proscale.errors import EmptyPictureError, UndecodablePictureError
from proscale.pictures.colour import to_srgb
from proscale.pictures.intensity import FULL, Intensity, dark_warning, to_eight_bits
from proscale.pictures.large.decoders import Georeference, RowDecoder
from proscale.pictures.large.levels import Levels
from proscale.pictures.large.turned import open_decoder
from proscale.pictures.records import Header, Samples
from proscale.pictures.transparency import on_white

BLOCK_PIXELS = 1 << 24
"""Pixels that are decoded at once where the whole file is gone through."""


class LargeFile:
    """A picture file that is read in parts. Use it as a context manager or call `close`."""

    def __init__(self, path: Path, intensity: Intensity = FULL, on_rows: Callable[[int], object] = lambda rows: None) -> None:
        """Open a file, and go through it once where black and white depend on all samples.

        Args:
            on_rows: called with numbers of rows that were gone through.

        Raises:
            UndecodablePictureError: see `open_stored`, and samples that have no meaning as RGB.
            EmptyPictureError: no bytes at all.
        """
        if not path.stat().st_size:
            raise EmptyPictureError("the picture is empty (0 bytes)")
        self._stamp = path.stat().st_mtime_ns, path.stat().st_size
        self._path, self._decoder = path, open_decoder(path)
        self._top = self._bottom = 0
        self._band = np.zeros((0, self._decoder.width, 3), np.uint8)
        try:
            self._intensity, self.warnings = self._look_through(intensity, on_rows)
        except BaseException:
            self.close()
            raise
        orientation = getattr(self._decoder, "orientation", 1)
        self.header = Header(self._decoder.format, self._decoder.height, self._decoder.width, orientation)

    @property
    def georeference(self) -> Georeference | None:
        """Where it lies on the earth, where the file says so."""
        return self._decoder.georeference

    def read(self, top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
        """A window (h, w, 3), uint8 RGB; ends are the first pixels behind it. Rows above the last window's top are gone.

        Raises:
            UndecodablePictureError: the file is broken there, or was changed meanwhile.
            ValueError: a window above the last one.
        """
        if top < self._top:
            raise ValueError(f"row {top} was let go: windows are read from the top to the bottom")
        if bottom > self._bottom:
            self._advance(top, bottom)
        return self._band[top - self._top : bottom - self._top, left:right]

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _advance(self, top: int, bottom: int) -> None:
        """Let rows above `top` go, and read those up to `bottom`."""
        stat = self._path.stat()
        if (stat.st_mtime_ns, stat.st_size) != self._stamp:
            raise UndecodablePictureError("the file was changed while it was read; try again with a file that does not change")
        band = np.empty((bottom - top, self._decoder.width, 3), np.uint8)
        kept = max(0, self._bottom - top)
        band[:kept] = self._band[len(self._band) - kept :]
        self._band = band
        for start in range(top + kept, bottom, step := self._rows_at_once):
            end = min(start + step, bottom)
            band[start - top : end - top] = self._rgb(self._decoder.rows(start, end))
        self._top, self._bottom = top, bottom

    @property
    def _rows_at_once(self) -> int:
        return max(1, BLOCK_PIXELS // self._decoder.width)

    def _rgb(self, samples: Samples) -> NDArray[np.uint8]:
        return on_white(to_srgb(to_eight_bits(samples, self._intensity), samples.profile), samples.alpha)

    def _look_through(self, intensity: Intensity, on_rows: Callable[[int], object]) -> tuple[Intensity, tuple[str, ...]]:
        """Which samples are black and white in all of the picture, and what should be known about it."""
        warnings = _warnings(self._decoder)
        first = self._decoder.rows(0, 1)
        if intensity.kind == "range" or (intensity.kind == "full" and not first.deep):
            return intensity, warnings
        levels = Levels(first.pixels.dtype)
        for top in range(0, self._decoder.height, step := self._rows_at_once):
            bottom = min(top + step, self._decoder.height)
            levels.add(self._decoder.rows(top, bottom).pixels)
            on_rows(bottom - top)
        if intensity.kind == "full":
            return intensity, warnings + dark_warning(first.white, levels.greatest)
        low, high = levels.limits(intensity.kind)
        return Intensity("range", low, high), warnings


def open_large(path: Path, intensity: Intensity = FULL, on_rows: Callable[[int], object] = lambda rows: None) -> LargeFile:
    """See `LargeFile`."""
    return LargeFile(path, intensity, on_rows)


def _warnings(decoder: RowDecoder) -> tuple[str, ...]:
    shown, all_bands = getattr(decoder, "bands", ()), getattr(decoder, "all_bands", 0)
    if all_bands > len(shown):
        named = ", ".join(map(str, shown))
        return (f"the picture has {all_bands} bands; {'band' if len(shown) == 1 else 'bands'} {named} are shown to the network",)
    return ()
