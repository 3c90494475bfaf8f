"""TIFF: which of its pages is the picture, what its tags say of the samples, and the samples.

Pillow decodes. Where its reading of a combination of tags is known to be right (`tests/model/pictures/test_tiff.py` goes through
them), its samples are scaled to their full range here; every other combination is refused.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

from proscale.errors import UndecodablePictureError
from proscale.pictures.records import Samples
from proscale.pictures.transparency import meaningful

MAX_PAGES = 1000
"""Pages that are looked at for one that is no thumbnail."""
_MAX_VALUES = 4096
"""Values of a tag that are read; the longest that matters is a palette of 768."""
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _COLOURS, _SUB_IFDS, _INKS, _EXTRA, _FORMAT, _SUBSAMPLING, _PROFILE = 277, 284, 320, 330, 332, 338, 339, 530, 34675
_WANTED = {
    *(_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC),
    *(_SAMPLES, _PLANAR, _COLOURS, _SUB_IFDS, _INKS, _EXTRA, _FORMAT, _SUBSAMPLING),
}
_WHITE_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR, _LAB, _CFA, _LINEAR_RAW = 0, 2, 3, 4, 5, 6, 8, 32803, 34892
_REDUCED, _TRANSPARENCY_MASK = 1, 4
_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
_SIGNED, _FLOAT = 2, 3


# Greys that Pillow refuses although its unpackers can read them. Inverting them is done here, as for those that it knows.
for _order, _photometric, _bits, _modes in (
    (b"MM", _WHITE_IS_ZERO, 16, ("I;16B", "I;16B")),
    (b"MM", 1, 12, ("I;16", "I;12")),
    (b"II", _WHITE_IS_ZERO, 12, ("I;16", "I;12")),
    (b"MM", _WHITE_IS_ZERO, 12, ("I;16", "I;12")),
    (b"MM", 1, 32, ("I", "I;32BS")),
):
    TiffImagePlugin.OPEN_INFO.setdefault((_order, _photometric, (1,), 1, (_bits,), ()), _modes)


@dataclass(frozen=True)
class Page:
    """One image file directory."""

    offset: int
    tags: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def get(self, tag: int, default: int) -> int:
        """A tag's first value."""
        values = self.tags.get(tag, ())
        return values[0] if values else default

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.get(_WIDTH, 0) * self.get(_HEIGHT, 0)

    @property
    def is_picture(self) -> bool:
        """Whether it is neither a reduced version of another page nor a mask."""
        kind = self.get(_SUBFILE, 0)
        return not kind & (_REDUCED | _TRANSPARENCY_MASK) and self.get(_OLD_SUBFILE, 1) != 2 and self.get(_PHOTOMETRIC, 1) != _MASK


def read_pages(data: bytes) -> Iterator[Page]:
    """The pages of a TIFF or BigTIFF in their order, each followed by its sub-pages; as many as can be read."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    big = data[2:4] in (b"+\0", b"\0+")
    layout = ("Q", 8, 20, "Q") if big else ("H", 2, 12, "I")
    seen: set[int] = set()
    queue = [struct.unpack_from(order + layout[3], data, 8 if big else 4)[0]]
    while queue and len(seen) < MAX_PAGES:
        offset = queue.pop(0)
        if offset in seen or not 0 < offset < len(data):
            continue
        seen.add(offset)
        try:
            page, following = _read_page(data, offset, order, layout)
        except struct.error:
            continue
        yield page
        queue[:0] = [*page.tags.get(_SUB_IFDS, ()), following]


def choose_page(pages: Iterable[Page]) -> Page | None:
    """The picture: the first page that is one; of a file of reduced versions alone the largest."""
    largest: Page | None = None
    for page in pages:
        if page.is_picture:
            return page
        if largest is None or page.pixels > largest.pixels:
            largest = page
    return largest


def starting_with(data: bytes, page: Page) -> bytes:
    """The same file with `page` as its first."""
    order = "<" if data[:2] == b"II" else ">"
    at, form = (8, "Q") if data[2:4] in (b"+\0", b"\0+") else (4, "I")
    first = struct.pack(order + form, page.offset)
    return data if data[at : at + len(first)] == first else data[:at] + first + data[at + len(first) :]


def check_readable(page: Page, mode: str) -> None:
    """Raise UndecodablePictureError for what Pillow opens, but reads as other samples than are stored."""
    photometric, bits = page.get(_PHOTOMETRIC, 0), page.tags.get(_BITS, (1,))
    separate = page.get(_PLANAR, 1) == 2 and page.get(_SAMPLES, 1) > 1
    uncompressed = page.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if photometric in (_CFA, _LINEAR_RAW):
        raise UndecodablePictureError("the TIFF holds a camera's raw data; develop it first")
    if photometric == _CMYK and page.get(_INKS, 1) != 1:
        raise UndecodablePictureError("the TIFF holds inks other than cyan, magenta, yellow and black; convert it to RGB")
    plain = uncompressed and not separate and page.tags.get(_SUBSAMPLING, (2, 2)) == (1, 1)
    if photometric == _YCBCR and mode != "L" and not plain and page.get(_COMPRESSION, 1) not in (_OLD_JPEG, _JPEG):
        raise UndecodablePictureError("YCbCr without JPEG compression is not read; convert the TIFF to RGB")
    if separate and mode in ("LA", "La", "PA"):
        raise UndecodablePictureError("a grey plane with a plane of alpha is not read; save the TIFF with interleaved samples")
    if separate and uncompressed and (max(bits) > 8 or mode not in ("RGB", "RGBA", "CMYK") or page.tags.get(_EXTRA, ()) not in ((), (2,))):
        raise UndecodablePictureError("planes of this kind are not read; save the TIFF with interleaved samples (PlanarConfiguration 1)")


def decode_tiff(image: Image.Image, page: Page) -> Samples:
    """The samples of a page that Pillow opened. Pillow turns them by the orientation tag itself while loading."""
    check_readable(page, image.mode)
    profile = image.info.get("icc_profile")
    bits, form, photometric = max(page.tags.get(_BITS, (1,))), page.get(_FORMAT, 1), page.get(_PHOTOMETRIC, 0)
    if image.mode == "P" and image.palette is not None and max(page.tags.get(_COLOURS, (256,))) < 256:
        # Some writers fill the 16-bit table with 8-bit values; libtiff's own viewers forgive that, too.
        image.palette = ImagePalette.raw("RGB;L", bytes(page.tags[_COLOURS]))
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
        alpha = meaningful(alpha) if page.get(_EXTRA, 0) not in (1, 2) else alpha
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


def _read_page(data: bytes, offset: int, order: str, layout: tuple[str, int, int, str]) -> tuple[Page, int]:
    """One directory, and the offset of the next one. Raises struct.error where the file ends too early."""
    count_form, count_size, entry_size, offset_form = layout
    (count,) = struct.unpack_from(order + count_form, data, offset)
    tags: dict[int, tuple[int, ...]] = {}
    start = offset + count_size
    for entry in range(start, start + entry_size * min(count, 4096), entry_size):
        tag, kind, length = struct.unpack_from(order + "HH" + offset_form, data, entry)
        if tag not in _WANTED or kind not in _TYPES or not 0 < length <= _MAX_VALUES:
            continue
        value = entry + 4 + struct.calcsize(order + offset_form)
        form = f"{order}{length}{_TYPES[kind]}"
        if struct.calcsize(form) > struct.calcsize(order + offset_form):
            (value,) = struct.unpack_from(order + offset_form, data, value)
        if value + struct.calcsize(form) <= len(data):
            tags[tag] = struct.unpack_from(form, data, value)
    (following,) = struct.unpack_from(order + offset_form, data, start + entry_size * count)
    return Page(offset, tags), following
