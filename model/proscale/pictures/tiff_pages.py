"""TIFF: its pages and their tags, and which page is the picture."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

MAX_PAGES = 1000
"""Pages that are looked at for one that is no thumbnail."""
_MAX_VALUES = 4096
"""Values of a tag that are read; the longest that matters is a palette of 768."""
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}


class Tag(IntEnum):
    """Tags that decide how a page is read (TIFF 6.0, and its supplements)."""

    SUBFILE = 254
    OLD_SUBFILE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    ORIENTATION = 274
    SAMPLES = 277
    PLANAR = 284
    COLOURS = 320
    SUB_IFDS = 330
    INKS = 332
    EXTRA = 338
    FORMAT = 339
    SUBSAMPLING = 530


MASK = 4
"""Photometric interpretation of a page that says which pixels of another one are transparent."""
_REDUCED, _TRANSPARENCY_MASK = 1, 4
_WANTED = frozenset(Tag)


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
        return self.get(Tag.WIDTH, 0) * self.get(Tag.HEIGHT, 0)

    @property
    def is_picture(self) -> bool:
        """Whether it is neither a reduced version of another page nor a mask."""
        kind = self.get(Tag.SUBFILE, 0)
        return not kind & (_REDUCED | _TRANSPARENCY_MASK) and self.get(Tag.OLD_SUBFILE, 1) != 2 and self.get(Tag.PHOTOMETRIC, 1) != MASK


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
        queue[:0] = [*page.tags.get(Tag.SUB_IFDS, ()), following]


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
