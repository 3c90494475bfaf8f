"""What the bytes of a picture file say before Pillow looks: where they end, and how large a WebP is.

The end is what finds a second picture glued behind the first.
Pillow reads the first picture and ignores the rest, so a client that writes two files into one part would get masks of one of
them and never know. Other things behind a picture are common (motion photos carry a film) and are let pass.
"""

import re

from proscale.errors import UndecodablePictureError

MAX_SCANS = 100
"""Scans of a JPEG; real ones have about ten. Each costs a pass over all pixels, so that a small file could buy minutes."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF", b"II*\x00", b"MM\x00*")
# In entropy-coded data FF is followed by 00 or by a restart marker; anything else is the next segment.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}


def check_single(data: bytes, form: str) -> None:
    """Raise UndecodablePictureError when a second picture follows the first, or a JPEG has absurdly many scans.

    Args:
        form: the format's name in Pillow. `MPO` is a JPEG that announces further pictures; its first one is meant.
    """
    end = {"JPEG": end_of_jpeg, "PNG": end_of_png, "WEBP": end_of_webp, "BMP": end_of_bmp}.get(form)
    position = end(data) if end else None
    if position is not None and data.startswith(_SIGNATURES, position):
        raise UndecodablePictureError("the data holds two pictures, one behind the other; send one picture per request")


def end_of_jpeg(data: bytes) -> int | None:
    """Offset behind the end marker, None when there is none.

    Raises:
        UndecodablePictureError: more than MAX_SCANS scans.
    """
    position, scans = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _END_OF_IMAGE:
            return position + 2
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _NO_LENGTH:
            position += 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise UndecodablePictureError(f"the JPEG has more than {MAX_SCANS} scans; save it again as an ordinary JPEG")
            found = _NEXT_MARKER.search(data, position)
            if found is None:
                return None
            position = found.start()
    return position + 2 if data[position : position + 2] == b"\xff\xd9" else None


def end_of_png(data: bytes) -> int | None:
    """Offset behind the IEND chunk, None when there is none."""
    position = 8
    while position + 12 <= len(data):
        kind = position + 4
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        if data[kind : kind + 4] == b"IEND":
            return position
    return None


def end_of_webp(data: bytes) -> int | None:
    """Offset behind the RIFF container."""
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a WebP's canvas in pixels; None for other data. Pillow makes room for the canvas when it opens the file."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF


def end_of_bmp(data: bytes) -> int | None:
    """The file size that the header states."""
    return int.from_bytes(data[2:6], "little") or None
