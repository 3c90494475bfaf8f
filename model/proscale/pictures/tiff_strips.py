"""Strips and tiles of a TIFF: whether they are whole. libtiff fills up what is missing and swallows what its codecs say.

JPEG strips are decoded strictly; of Deflate ones the checksum counts, up to which libtiff does not always read.
"""

import zlib
from collections.abc import Iterator

import simplejpeg
from PIL import Image

from proscale.errors import UndecodablePictureError
from proscale.pictures.jpeg import read_segments, strictly_decoded

_STRIPS, _TILES, _TABLES = (273, 279), (324, 325), 347
_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_START, _END = b"\xff\xd8", b"\xff\xd9"
_MARGIN = 1 << 20
"""Pixels that a strip or tile may have beyond its picture's own."""
_MOST_BYTES_PER_PIXEL = 64
_AT_ONCE = 1 << 20


def check_strips(image: Image.Image, data: bytes) -> None:
    """Decode every strip or tile of an opened TIFF, and throw the pixels away.

    Args:
        image: a TIFF, before it is loaded; one of other compressions than JPEG and Deflate is left to libtiff.
        data: its file.

    Raises:
        UndecodablePictureError: a strip lies outside the file, is larger than the picture, or is damaged.
    """
    check = {"jpeg": _check_jpeg, "tiff_adobe_deflate": _check_deflate, "tiff_deflate": _check_deflate}.get(
        image.info.get("compression", "")
    )
    if check is not None:
        for number, strip in _strips(image, data):
            check(image, number, strip)


def _strips(image: Image.Image, data: bytes) -> Iterator[tuple[int, bytes]]:
    tags = image.tag_v2  # type: ignore[attr-defined]
    offsets, counts = next(((tags[a], tags[b]) for a, b in (_TILES, _STRIPS) if a in tags and b in tags), ((), ()))
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=False)):
        strip = data[offset : offset + count]
        if len(strip) < count:
            raise UndecodablePictureError(f"the TIFF is broken or cut off: its strip or tile {number} is missing")
        yield number, strip


def _check_jpeg(image: Image.Image, number: int, strip: bytes) -> None:
    if not strip.startswith(_START):
        raise UndecodablePictureError(f"the TIFF is broken or cut off: its JPEG strip or tile {number} is missing")
    # Tables that all strips share stand in a JPEG of their own, without pixels.
    tables = bytes(image.tag_v2.get(_TABLES, b""))  # type: ignore[attr-defined]
    whole = tables.removesuffix(_END) + strip[len(_START) :] if tables.startswith(_START) else strip
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(whole, strict=False)
    except ValueError as error:
        raise UndecodablePictureError(f"the TIFF's JPEG strip or tile {number} is broken: {error}") from error
    if height * width > image.height * image.width + _MARGIN:
        raise UndecodablePictureError(f"the TIFF's JPEG strip or tile {number} has {width}x{height} pixels, more than the picture")
    strictly_decoded(whole, _SPACES.get(len(read_segments(whole).components), "RGB"))


def _check_deflate(image: Image.Image, number: int, strip: bytes) -> None:
    decompressor, left = zlib.decompressobj(), (image.height * image.width + _MARGIN) * _MOST_BYTES_PER_PIXEL
    try:
        while strip and not decompressor.eof and left > 0:
            left -= len(decompressor.decompress(strip, _AT_ONCE))
            strip = decompressor.unconsumed_tail
    except zlib.error as error:
        raise UndecodablePictureError(f"the TIFF is broken: its strip or tile {number}: {error}") from error
    if not decompressor.eof:
        raise UndecodablePictureError(f"the TIFF is broken or cut off: its strip or tile {number} does not end")
