"""What lies behind a picture in its file: a second one that nothing announces means that two files were glued together.

A decoder reads the first picture and ignores the rest, so a client that writes two files into one part would get masks of one of
them and never know. Other things behind a picture are common (motion photos carry a film) and are let pass, and so are pictures
that the first one announces: gain maps of Ultra HDR, depth maps, further views.
"""

import re

from proscale.errors import UndecodablePictureError
from proscale.pictures.jpeg import Segments

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF", b"II*\x00", b"MM\x00*")
_XMP = (b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0")
_GAIN_MAP = (b"hdrgm:", b"ns.adobe.com/hdr-gain-map/")
_CONTAINER = (b"ns.google.com/photos/1.0/container/", b"ns.google.com/photos/dd/1.0/", b"Container:Directory", b"Device:Container")
_ITEM_LENGTH = re.compile(rb"Item:(Length|Padding)\s*(?:=\s*[\"']|>)\s*(\d+)")
_ALONE = 0
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"


def check_single(data: bytes, end: int | None, segments: Segments | None = None) -> None:
    """Raise UndecodablePictureError when a picture that nothing announces follows the first.

    Args:
        end: offset behind the first picture; None when it is not known.
        segments: of a JPEG.
    """
    if end is None or not data.startswith(_SIGNATURES, end):
        return
    if segments is not None and (announced := _announced_end(data, end, segments)) is not None:
        if not data.startswith(_SIGNATURES, announced):
            return
        raise UndecodablePictureError("the file has more pictures than it announces; send one picture per request")
    raise UndecodablePictureError("the data has two pictures, one after the other; send one picture per request")


def _announced_end(data: bytes, end: int, segments: Segments) -> int | None:
    """Offset behind all pictures that the JPEG announces, the file's end where it does not say how long they are; None: none is."""
    ends: list[int | None] = []
    announced = False
    for marker, start, stop in segments.application:
        content = data[start:stop]
        if marker == 0xE2 and content.startswith(b"MPF\0"):
            last = _end_of_mpf(content[4:], start + 4)
            if last != _ALONE:
                announced = True
                ends.append(last)
        elif marker == 0xE2 and content.startswith(_ISO_GAIN_MAP):
            announced = True
        elif marker == 0xE1 and content.startswith(_XMP):
            announced = announced or any(name in content for name in _GAIN_MAP + _CONTAINER)
            if any(name in content for name in _CONTAINER):
                lengths = sum(int(length) for _, length in _ITEM_LENGTH.findall(content))
                ends.append(end + lengths if lengths else None)
    known = [each for each in ends if each is not None]
    return max(known) if known else len(data) if announced else None


def _end_of_mpf(block: bytes, base: int) -> int | None:
    """Offset behind the last picture of a multi-picture index (CIPA DC-007, 5.2.3).

    _ALONE: the index holds the first picture alone; None: it cannot be read.

    Args:
        block: a TIFF header and what follows.
        base: its offset in the file, from which it counts.
    """
    order = {b"II": "little", b"MM": "big"}.get(block[:2])
    if order is None:
        return None

    def number(position: int, size: int) -> int:
        return int.from_bytes(block[position : position + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, min(directory + 2 + 12 * number(directory, 2), len(block) - 11), 12):
        if number(entry, 2) == 0xB002:  # 16 bytes a picture: attribute, size, offset, two dependants
            count, table = number(entry + 4, 4), number(entry + 8, 4)
            if table + count > len(block):
                return None
            pictures = [(number(at + 4, 4), number(at + 8, 4)) for at in range(table, table + count, 16)]
            return max((base + offset + size for size, offset in pictures if offset), default=_ALONE)
    return None
