"""JPEG: its segments, whether it is whole, and its pixels by libjpeg-turbo, whose warnings count.

Where data is missing libjpeg fills up with grey and only warns, and Pillow does not hand the warning on.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from proscale.errors import UndecodablePictureError
from proscale.pictures.orientation import orientation_of
from proscale.pictures.records import Samples

MAX_SCANS = 100
"""Scans of a JPEG; real ones have about ten. Each costs a pass over all pixels, so that a small file could buy minutes."""
MAX_PADDING = 4096
"""Equal bytes in front of the end marker that are taken for padding, which some cameras write."""

# In entropy-coded data FF is followed by 00 or by a restart marker; anything else is the next segment.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xCA}
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_APPLICATION = range(0xE0, 0xF0)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


@dataclass
class Segments:
    """What stands in a JPEG up to its end marker."""

    end: int | None = None
    """Offset behind the end marker; None when there is none."""
    frame: int = 0
    """The frame header's marker, 0xC0 baseline, 0xC2 progressive ..."""
    precision: int = 8
    components: tuple[int, ...] = ()
    scans: list[bytes] = field(default_factory=list)
    """The scan headers, without marker and length."""
    application: list[tuple[int, int, int]] = field(default_factory=list)
    """(marker, start, end) of what APPn segments hold."""


def read_segments(data: bytes) -> Segments:
    """Walk over a JPEG, which may be cut off anywhere.

    Raises:
        UndecodablePictureError: more than MAX_SCANS scans.
    """
    found, position = Segments(), 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _END_OF_IMAGE:
            break
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _NO_LENGTH:
            position += 2
            continue
        start, position = position + 4, position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _APPLICATION:
            found.application.append((marker, start, min(position, len(data))))
        elif marker in _FRAMES and not found.frame:
            found.frame, found.precision = marker, data[start] if start < len(data) else 8
            found.components = tuple(data[start + 6 : position : 3])
        elif marker == _START_OF_SCAN:
            found.scans.append(data[start:position])
            if len(found.scans) > MAX_SCANS:
                raise UndecodablePictureError(f"the JPEG has more than {MAX_SCANS} scans; save it again as an ordinary JPEG")
            following = _NEXT_MARKER.search(data, position)
            if following is None:
                return found
            position = following.start()
    if data[position : position + 2] == b"\xff\xd9":
        found.end = position + 2
    return found


def end_of_jpeg(data: bytes) -> int | None:
    """Offset behind the end marker, None when there is none. Errors: as `read_segments`."""
    return read_segments(data).end


def decode_jpeg(image: Image.Image, data: bytes, segments: Segments) -> Samples:
    """The samples of a JPEG.

    Args:
        image: what Pillow opened, for its mode and metadata; its pixels are not decoded.

    Raises:
        UndecodablePictureError: scans are missing, or libjpeg warned about the pixels.
    """
    if missing_scans(segments):
        raise UndecodablePictureError("the JPEG is cut off: some of its scans are missing")
    if segments.end is None:  # pixels matter: a picture that lacks its end marker alone is whole
        data += b"\xff\xd9"
    space = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[image.mode]
    pixels = strictly_decoded(data, space)
    if space == "GRAY":
        pixels = pixels[:, :, 0]
    elif space == "CMYK":  # stored as Adobe's programs do, 255 for no ink
        pixels = 255 - pixels
    return Samples(pixels, profile=image.info.get("icc_profile"), orientation=orientation_of(image))


def missing_scans(segments: Segments) -> bool:
    """Whether components, or bits of a progressive JPEG's coefficients (T.81, G.1), never come."""
    progressive = segments.frame in _PROGRESSIVE
    missing = {component: set(range(64)) if progressive else {0} for component in segments.components}
    for scan in segments.scans:
        count = scan[0] if scan else 0
        if len(scan) < 4 + 2 * count:
            return True
        first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
        for component in scan[1 : 1 + 2 * count : 2]:
            if not progressive:
                missing.get(component, set()).clear()
            elif bits & 15 == 0:
                missing.get(component, set()).difference_update(range(first, last + 1))
    return any(missing.values())


def strictly_decoded(data: bytes, space: str) -> NDArray[np.uint8]:
    """(H, W, channels) uint8 of a JPEG of which libjpeg has nothing to say but what is harmless.

    Args:
        space: GRAY, RGB or CMYK.

    Raises:
        UndecodablePictureError: libjpeg warned about the pixels.
    """
    try:
        return _decoded(data, space)
    except ValueError as error:
        message = str(error)
    padding = _EXTRANEOUS.search(message)
    if padding and (end := read_segments(data).end) is not None:
        start = end - 2 - int(padding.group(1))
        between = data[start : end - 2]
        if len(between) <= MAX_PADDING and len(set(between)) == 1:
            return strictly_decoded(data[:start] + b"\xff\xd9", space)
    if (repaired := _with_usual_header(data)) != data:
        return strictly_decoded(repaired, space)
    raise UndecodablePictureError(f"the picture is broken or cut off: {message}")


def _with_usual_header(data: bytes) -> bytes:
    """The same JPEG with numbers that libjpeg knows in its JFIF and Adobe segments: it warns of others, and reads them as these."""
    changed, segments = bytearray(data), read_segments(data)
    for marker, start, end in segments.application:
        if marker == 0xE0 and data[start:end].startswith(b"JFIF\0") and end - start >= 7:
            changed[start + 5] = 1
        elif marker == 0xEE and data[start:end].startswith(b"Adobe") and end - start >= 12 and data[start + 11] > 2:
            changed[start + 11] = 2 if len(segments.components) == 4 else 1
    return bytes(changed)


def _decoded(data: bytes, space: str) -> NDArray[np.uint8]:
    # The slow DCT and upsampling are libjpeg's standard, and what Pillow gives.
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, space, fastdct=False, fastupsample=False, strict=True)
    return pixels
