"""TIFF: what its tags say of the samples, and the samples.

Pillow decodes. Where its reading of a combination of tags is known to be right (`tests/model/pictures/test_tiff.py` goes through
them), its samples are scaled to their full range here. Of the other combinations tifffile reads those that
`tiff_planes.covers` takes; the rest is refused.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin, UnidentifiedImageError

from proscale.errors import UndecodablePictureError
from proscale.pictures.records import Samples
from proscale.pictures.tiff_pages import Page, Tag
from proscale.pictures.tiff_planes import PlanesTiff, covers
from proscale.pictures.transparency import meaningful

_WHITE_IS_ZERO, _CMYK, _YCBCR, _LAB, _CFA, _LINEAR_RAW = 0, 5, 6, 8, 32803, 34892
_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
_SIGNED = 2
_MOST_PLANES = 4
"""Separate planes that Pillow decodes."""


# Greys that Pillow refuses although its unpackers can read them. Inverting them is done here, as for those that it knows.
for _order, _photometric, _bits, _modes in (
    (b"MM", _WHITE_IS_ZERO, 16, ("I;16B", "I;16B")),
    (b"MM", 1, 12, ("I;16", "I;12")),
    (b"II", _WHITE_IS_ZERO, 12, ("I;16", "I;12")),
    (b"MM", _WHITE_IS_ZERO, 12, ("I;16", "I;12")),
    (b"MM", 1, 32, ("I", "I;32BS")),
):
    TiffImagePlugin.OPEN_INFO.setdefault((_order, _photometric, (1,), 1, (_bits,), ()), _modes)


def open_tiff(data: bytes, page: Page | None) -> "Image.Image | PlanesTiff":
    """What decodes the file's first page.

    Args:
        page: the file's first page; None: it could not be read here, and Pillow shall try.

    Raises:
        UndecodablePictureError: what Pillow would read as other samples than are stored, and tifffile would not read.
        UnidentifiedImageError: neither knows it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
        if page is not None:
            check_readable(page, image.mode)
    except (UnidentifiedImageError, UndecodablePictureError):
        if page is not None and covers(page):
            return PlanesTiff(data, page)
        raise
    return image


def check_readable(page: Page, mode: str) -> None:
    """Raise UndecodablePictureError for what Pillow opens, but reads as other samples than are stored."""
    photometric, bits = page.get(Tag.PHOTOMETRIC, 0), page.tags.get(Tag.BITS, (1,))
    separate = page.get(Tag.PLANAR, 1) == 2 and page.get(Tag.SAMPLES, 1) > 1
    uncompressed = page.get(Tag.COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if photometric in (_CFA, _LINEAR_RAW):
        raise UndecodablePictureError("the TIFF has raw camera data; convert it first")
    if photometric == _CMYK and page.get(Tag.INKS, 1) != 1:
        raise UndecodablePictureError("the TIFF has inks other than cyan, magenta, yellow and black; convert it to RGB")
    plain = uncompressed and not separate and page.tags.get(Tag.SUBSAMPLING, (2, 2)) == (1, 1)
    if photometric == _YCBCR and mode != "L" and not plain and page.get(Tag.COMPRESSION, 1) not in (_OLD_JPEG, _JPEG):
        raise UndecodablePictureError("YCbCr without JPEG compression is not supported; convert the TIFF to RGB")
    if separate and mode in ("LA", "La", "PA"):
        raise UndecodablePictureError("a grey plane with an alpha plane is not supported; save the TIFF with interleaved samples")
    usual = max(bits) <= 8 and mode in ("RGB", "RGBA", "CMYK") and page.tags.get(Tag.EXTRA, ()) in ((), (2,))
    if separate and ((uncompressed and not usual) or page.get(Tag.SAMPLES, 1) > _MOST_PLANES):
        raise UndecodablePictureError(
            "planes of this kind are not supported; save the TIFF with interleaved samples (PlanarConfiguration 1)"
        )


def decode_tiff(image: Image.Image, page: Page) -> Samples:
    """The samples of a page that `open_tiff` had Pillow open. Pillow turns them by the orientation tag itself while loading."""
    profile = image.info.get("icc_profile")
    bits, form, photometric = max(page.tags.get(Tag.BITS, (1,))), page.get(Tag.FORMAT, 1), page.get(Tag.PHOTOMETRIC, 0)
    if image.mode == "P" and image.palette is not None and max(page.tags.get(Tag.COLOURS, (256,))) < 256:
        # Some writers fill the 16-bit table with 8-bit values; libtiff's own viewers forgive that, too.
        image.palette = ImagePalette.raw("RGB;L", bytes(page.tags[Tag.COLOURS]))
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep(image, bits, form, photometric, profile)
    if form == _SIGNED and bits == 8:
        return Samples(np.asarray(image).view(np.int8), None, None, profile)
    alpha = None
    if image.mode in ("LA", "La", "RGBA", "PA"):
        straight = image.convert("LA") if image.mode == "La" else image.convert("RGBA") if image.mode == "PA" else image
        alpha = np.asarray(straight.getchannel("A"))
        image = straight.convert("L" if straight.mode == "LA" else "RGB")
        alpha = meaningful(alpha) if page.get(Tag.EXTRA, 0) not in (1, 2) else alpha
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
        profile = profile if photometric not in (_LAB,) else None
    return Samples(np.asarray(image), 255, alpha, profile, deep=bits == 16)


def _deep(image: Image.Image, bits: int, form: int, photometric: int, profile: bytes | None) -> Samples:
    """Grey of more than 8 bits."""
    pixels: np.ndarray[Any, Any] = np.asarray(image)
    white: int | None = None
    if image.mode.startswith("I;16"):
        pixels, white = pixels.astype(np.uint16), (1 << bits) - 1
    elif image.mode == "I" and form == 1:
        pixels = pixels.view(np.uint32)
    if photometric == _WHITE_IS_ZERO:
        pixels = -pixels if white is None else (white - pixels.astype(np.int32)).astype(np.uint16)
    return Samples(pixels, white, None, profile, deep=bits == 16)
