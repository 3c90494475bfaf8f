"""JPEG inside TIFF: whether every strip or tile is whole. libtiff fills up what is missing with grey and swallows libjpeg's warning."""

import simplejpeg
from PIL import Image

from proscale.errors import UndecodablePictureError
from proscale.pictures.jpeg import read_segments, strictly_decoded

COMPRESSION = "jpeg"
"""Pillow's name of it."""
_STRIPS, _TILES, _TABLES = (273, 279), (324, 325), 347
_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_START, _END = b"\xff\xd8", b"\xff\xd9"
_MARGIN = 1 << 20
"""Pixels that a strip or tile may have beyond its picture's own."""


def check_strips(image: Image.Image, data: bytes) -> None:
    """Decode every strip or tile of an opened TIFF strictly, and throw the pixels away.

    Args:
        image: a TIFF whose compression is JPEG, before it is loaded.
        data: its file.

    Raises:
        UndecodablePictureError: a strip lies outside the file, is larger than the picture, or libjpeg warned about it.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    offsets, counts = next(((tags[a], tags[b]) for a, b in (_TILES, _STRIPS) if a in tags and b in tags), ((), ()))
    tables = bytes(tags.get(_TABLES, b""))
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=False)):
        strip = data[offset : offset + count]
        if len(strip) < count or not strip.startswith(_START):
            raise UndecodablePictureError(f"the TIFF is broken or cut off: its JPEG strip or tile {number} is not there")
        # Tables that all strips share stand in a JPEG of their own, without pixels.
        whole = tables.removesuffix(_END) + strip[len(_START) :] if tables.startswith(_START) else strip
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(whole, strict=False)
        except ValueError as error:
            raise UndecodablePictureError(f"the TIFF's JPEG strip or tile {number} is broken: {error}") from error
        if height * width > image.height * image.width + _MARGIN:
            raise UndecodablePictureError(f"the TIFF's JPEG strip or tile {number} has {width}x{height} pixels, more than the picture")
        strictly_decoded(whole, _SPACES.get(len(read_segments(whole).components), "RGB"))
