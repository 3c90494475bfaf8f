"""Decoders that read some rows of a file: GDAL (rasterio) for TIFF, BigTIFF, JPEG 2000, JPEG and PNG; OpenSlide for slides.

Both come with the extra `large`. A decoder gives samples as they are stored; what becomes of them is decided where all pictures are
read (`pictures/reader.py`).
"""

import base64
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.errors import UndecodablePictureError
from proscale.pictures.formats import sniff
from proscale.pictures.records import Samples

INSTALL = "pip install 'proscale-segmentation-service[large]'"
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")
"""File names of slides, which OpenSlide reads."""
DRIVERS = {"TIFF": "GTiff", "JPEG2000": "JP2OpenJPEG", "JPEG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "BMP": "BMP"}
"""GDAL's driver for a format that the first bytes tell; no other driver is let near a file."""
CACHE_MEBIBYTES = 64
"""Of decoded blocks that GDAL keeps."""


@dataclass(frozen=True)
class Georeference:
    """Where a picture lies on the earth."""

    affine: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f): x' = a x + b y + c, y' = d x + e y + f, from the corner of the first pixel."""
    crs: str
    """The coordinate system: an authority's code such as EPSG:32632, or WKT."""


class RowDecoder(Protocol):
    """A file whose rows are read from the top to the bottom."""

    format: str
    height: int
    width: int

    @property
    def georeference(self) -> Georeference | None:
        """Where the picture lies on the earth, where the file says so."""
        ...

    def rows(self, top: int, bottom: int) -> Samples:
        """Rows top..bottom - 1. Raises UndecodablePictureError when the file is broken there."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_stored(path: Path) -> "GdalDecoder | SlideDecoder":
    """The decoder for a file, whose rows are those that are stored.

    Raises:
        UndecodablePictureError: a package is missing, or the file is none that can be read in parts; the text has the remedy.
    """
    return SlideDecoder(path) if path.suffix.lower() in SLIDES else GdalDecoder(path)


class GdalDecoder:
    """A file through GDAL."""

    def __init__(self, path: Path) -> None:
        try:
            import rasterio
        except ImportError as error:
            raise _missing("rasterio") from error
        with path.open("rb") as start:
            form = sniff(start.read(64))
        if form not in DRIVERS:
            raise UndecodablePictureError(f"the file has no format that can be read in parts: {', '.join(DRIVERS)} and slides")
        self._rasterio = rasterio
        self._environment = rasterio.Env(GDAL_CACHEMAX=CACHE_MEBIBYTES, GDAL_PAM_ENABLED=False, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
        self._environment.__enter__()
        try:
            with self._readable(path), warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._file = rasterio.open(path, driver=DRIVERS[form])
        except BaseException:
            self._environment.__exit__(None, None, None)
            raise
        self._path = path
        self.format, self.height, self.width = form, self._file.height, self._file.width
        self._bands, self._alpha, self._kind = self._choose_bands()
        self._white = self._white_sample()
        profile = self._file.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE")
        self._profile = base64.b64decode(profile) if profile else None
        crs, affine = self._file.crs, self._file.transform
        place = Georeference((affine.a, affine.b, affine.c, affine.d, affine.e, affine.f), crs.to_string()) if crs else None
        self.georeference: Georeference | None = place

    @property
    def bands(self) -> tuple[int, ...]:
        """Those that are looked at, counted from 1."""
        return tuple(self._bands)

    @property
    def all_bands(self) -> int:
        """Those that the file has, without alpha."""
        return int(self._file.count) - (self._alpha is not None)

    def rows(self, top: int, bottom: int) -> Samples:
        """See `RowDecoder`."""
        return self.part(top, 0, bottom, self.width)

    def part(self, top: int, left: int, bottom: int, right: int) -> Samples:
        """A rectangle as stored; ends are the first pixels behind it. Errors: as `rows`."""
        window = ((top, bottom), (left, right))
        with self._readable(self._path):
            pixels: NDArray[Any] = self._file.read(self._bands, window=window)
            alpha = None if self._alpha is None else self._file.read(self._alpha, window=window)
        pixels = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
        if self._kind == "palette":
            table = self._palette()
            pixels = table[pixels]
        elif self._kind == "inverted" and self._white is not None:
            pixels = (self._white - pixels.astype(np.int64)).astype(pixels.dtype)
        if alpha is not None and alpha.dtype != np.uint8:
            alpha = (alpha >> 8).astype(np.uint8) if alpha.dtype == np.uint16 else None
        return Samples(np.ascontiguousarray(pixels), self._white, alpha, self._profile, 1, pixels.dtype == np.uint16)

    def close(self) -> None:
        """See `RowDecoder`."""
        self._file.close()
        self._environment.__exit__(None, None, None)

    def _choose_bands(self) -> tuple[list[int], int | None, str]:
        """Bands that make the colours, the band of alpha, and how they are to be understood."""
        meanings = [each.name for each in self._file.colorinterp]
        alpha = meanings.index("alpha") + 1 if "alpha" in meanings else None
        others = [number for number in self._file.indexes if number != alpha]
        if {"red", "green", "blue"} <= set(meanings):
            return [meanings.index(name) + 1 for name in ("red", "green", "blue")], alpha, "plain"
        if {"cyan", "magenta", "yellow", "black"} <= set(meanings):
            return [meanings.index(name) + 1 for name in ("cyan", "magenta", "yellow", "black")], None, "plain"
        if meanings[0] == "palette":
            return [1], None, "palette"
        inverted = self._file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        return (others[:3] if len(others) >= 3 else others[:1]), alpha, "inverted" if inverted else "plain"

    def _white_sample(self) -> int | None:
        kind = np.dtype(self._file.dtypes[self._bands[0] - 1])
        if kind.kind == "c" or any(np.dtype(self._file.dtypes[band - 1]) != kind for band in self._bands):
            raise UndecodablePictureError("bands of complex numbers or of different types are not supported; choose bands of one type")
        if kind.kind != "u" or kind.itemsize > 2:
            return None
        bits = self._file.tags(self._bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
        return (1 << int(bits)) - 1 if bits else int(np.iinfo(kind).max)

    def _palette(self) -> NDArray[np.uint8]:
        table = np.zeros((256, 3), np.uint8)
        for value, colour in self._file.colormap(1).items():
            if value < 256:
                table[value] = colour[:3]
        return table

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        try:
            yield
        except self._rasterio.errors.RasterioError as error:
            raise UndecodablePictureError(f"the picture is broken, cut off or of a kind that cannot be read in parts: {error}") from error


class SlideDecoder:
    """A whole-slide picture through OpenSlide, at its full magnification."""

    georeference: Georeference | None = None

    def __init__(self, path: Path) -> None:
        try:
            import openslide
        except ImportError as error:
            raise _missing("openslide-python and openslide-bin") from error
        self._errors = (openslide.OpenSlideError, openslide.OpenSlideUnsupportedFormatError)
        try:
            self._slide = openslide.OpenSlide(path)
        except self._errors as error:
            raise UndecodablePictureError(f"OpenSlide cannot read the slide: {error}") from error
        self.format = f"slide ({self._slide.properties.get('openslide.vendor', 'unknown')})"
        self.width, self.height = self._slide.dimensions

    def rows(self, top: int, bottom: int) -> Samples:
        """See `RowDecoder`."""
        try:
            region = self._slide.read_region((0, top), 0, (self.width, bottom - top))
        except self._errors as error:
            raise UndecodablePictureError(f"the slide is broken at rows {top} to {bottom}: {error}") from error
        rgba = np.asarray(region)
        return Samples(np.ascontiguousarray(rgba[:, :, :3]), 255, rgba[:, :, 3].copy())

    def close(self) -> None:
        """See `RowDecoder`."""
        self._slide.close()


def _missing(package: str) -> UndecodablePictureError:
    return UndecodablePictureError(f"pictures of this size are read in parts, which needs {package}: {INSTALL}")
