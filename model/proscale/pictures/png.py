"""PNG: which chunks count, and its samples.

Pillow decodes the pixels. It gets the critical chunks alone, so that no metadata can be too large or too broken for it;
what of the metadata changes pixels (transparency, colours, orientation) is read here.
"""

import io
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.errors import UndecodablePictureError
from proscale.pictures.colour import MAX_PROFILE_BYTES, matrix_profile
from proscale.pictures.orientation import orientation_in_exif, orientation_in_xmp
from proscale.pictures.records import Samples
from proscale.pictures.transparency import opaque_unless

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 1 << 20
"""Of metadata that is looked into, after decompression; more is skipped."""
MAX_TELLING_TEXTS = 4
"""Texts that are looked into, so that a file of thousands costs nothing."""
_TEXT = {b"tEXt", b"zTXt", b"iTXt"}
_TELLING = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_GREY, _RGB, _PALETTE = 0, 2, 3
_SRGB_GAMMA = 45455
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@dataclass
class Png:
    """A PNG taken apart."""

    pixels: bytes
    """A PNG of the critical chunks alone, and of a palette's transparency."""
    depth: int = 8
    colour_type: int = _RGB
    transparent: bytes | None = None
    """The tRNS chunk of greys and RGB."""
    profile: bytes | None = None
    orientation: int = 1
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    """The chunks that say what colours mean: sRGB, gAMA, cHRM."""


def take_apart(data: bytes) -> Png:
    """Read the chunks of a whole PNG or of its beginning."""
    view, text, telling = memoryview(data), 1, 0
    kept: list[bytes | memoryview] = [SIGNATURE]
    png = Png(b"")
    for kind, start, end in chunks(data):
        body = view[start + 8 : max(start + 8, end - 4)]
        if kind == b"IHDR" and len(body) >= 10:
            png.depth, png.colour_type = body[8], body[9]
        if kind in _CRITICAL or (kind == b"tRNS" and png.colour_type == _PALETTE):
            kept.append(view[start:end])
        elif kind == b"tRNS":
            png.transparent = bytes(body[:6])
        elif kind == b"iCCP" and png.profile is None:
            png.profile = _inflated(_behind_name(bytes(body[:81]), bytes(body)), MAX_PROFILE_BYTES)
        elif kind in (b"sRGB", b"gAMA", b"cHRM"):
            png.chunks[kind] = bytes(body[:32])
        elif kind == b"eXIf" and png.orientation == 1:
            png.orientation = orientation_in_exif(bytes(body))
        elif kind in _TEXT and bytes(body[:22]).startswith(_TELLING) and telling < MAX_TELLING_TEXTS:
            telling += 1
            text = max(text, _orientation_in_text(kind, bytes(body[:MAX_TEXT_BYTES])))
    if png.orientation == 1:
        png.orientation = text
    png.profile = png.profile or (None if b"sRGB" in png.chunks else _profile_of_gamma(png.chunks))
    png.pixels = b"".join(kept)
    return png


def chunks(data: bytes | mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of every chunk, up to IEND; the last one may be cut off."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = min(len(data), position + 12 + length)
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end


def decode_png(image: Image.Image, png: Png, exact: bool) -> Samples:
    """The samples of an image that Pillow opened from `png.pixels`.

    Args:
        exact: of 16-bit RGB all bits are needed, not the high 8 alone.
    """
    deep = png.depth == 16
    mode = image.mode
    if mode in ("I", "I;16", "I;16B"):
        image.load()
        grey = np.asarray(image).astype(np.uint16)
        alpha = None if png.transparent is None else opaque_unless(grey, _colour(png, 1)[0])
        return Samples(grey, 65535, alpha, png.profile, png.orientation, deep=True)
    if deep and (exact or png.transparent is not None) and mode in ("RGB", "RGBA"):
        return _sixteen_bit_colour(image, png)
    image.load()
    if mode == "P":
        rgba = image.convert("RGBA") if "transparency" in image.info else image.convert("RGB")
        found = rgba.getchannel("A") if rgba.mode == "RGBA" else None
        pixels, alpha = np.asarray(rgba.convert("RGB")), None if found is None else np.asarray(found)
    elif mode in ("LA", "RGBA"):
        pixels, alpha = np.asarray(image.convert(mode[:-1] if mode == "LA" else "RGB")), np.asarray(image.getchannel("A"))
    else:
        pixels = np.asarray(image.convert("L") if mode == "1" else image)
        alpha = None
        if png.transparent is not None:
            colour = _colour(png, 1 if pixels.ndim == 2 else 3)
            scale = 255 // ((1 << png.depth) - 1) if png.depth < 8 else 1
            alpha = opaque_unless(pixels, colour[0] * scale if pixels.ndim == 2 else tuple(colour))
    return Samples(pixels, 255, alpha, png.profile, png.orientation, deep)


def _sixteen_bit_colour(image: Image.Image, png: Png) -> Samples:
    """All 16 bits of RGB and RGBA, which Pillow has no mode for: the high bytes by one pass, the low bytes by another."""
    high, low = (_bytes_of(png.pixels, order) for order in "BL")
    pixels = high[:, :, :3].astype(np.uint16) << 8 | low[:, :, :3]
    image.close()
    alpha = high[:, :, 3] if high.shape[2] == 4 else None
    if png.transparent is not None and alpha is None:
        alpha = opaque_unless(pixels, tuple(_colour(png, 3)))
    return Samples(pixels, 65535, alpha, png.profile, png.orientation, deep=True)


def _bytes_of(data: bytes, order: str) -> NDArray[np.uint8]:
    """(H, W, 3 or 4) of the high ("B") or low ("L") bytes: what is big endian, read as little endian, shows its low byte."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args=f"{image.mode};16{order}") for tile in image.tile]
        image.load()
        return np.asarray(image)


def _colour(png: Png, count: int) -> list[int]:
    """The transparent colour: `count` samples; a file whose tRNS is too short is broken."""
    if png.transparent is None or len(png.transparent) < 2 * count:
        raise UndecodablePictureError("the PNG's transparent colour (tRNS) is cut off")
    mask = (1 << png.depth) - 1
    return [value & mask for value in struct.unpack_from(f">{count}H", png.transparent)]


def _behind_name(head: bytes, body: bytes) -> bytes:
    """What follows a chunk's name and compression method."""
    return body[head.index(b"\0") + 2 :] if b"\0" in head else b""


def _inflated(data: bytes, most: int) -> bytes | None:
    """zlib data decompressed; None when it is broken or more than `most` bytes."""
    try:
        decompressor = zlib.decompressobj()
        result = decompressor.decompress(data, most)
    except zlib.error:
        return None
    return result if decompressor.eof or not decompressor.unconsumed_tail else None


def _orientation_in_text(kind: bytes, body: bytes) -> int:
    """Orientation in the two kinds of text that carry it: ImageMagick's EXIF in hexadecimal digits, and XMP."""
    name, _, rest = body.partition(b"\0")
    if name == b"Raw profile type exif":
        text = rest if kind == b"tEXt" else _inflated(rest[1:], MAX_TEXT_BYTES) if kind == b"zTXt" else None
        try:
            block = bytes.fromhex(b"".join((text or b"").split()[2:]).decode("ascii"))
        except ValueError:
            return 1
        return orientation_in_exif(block)
    if name == b"XML:com.adobe.xmp" and kind == b"iTXt":
        packed, packet = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        return orientation_in_xmp((_inflated(packet, MAX_TEXT_BYTES) or b"") if packed else packet)
    return 1


def _profile_of_gamma(given: dict[bytes, bytes]) -> bytes | None:
    """gAMA and cHRM as a profile; None where they say what sRGB says."""
    if len(given.get(b"gAMA", b"")) < 4:
        return None  # browsers, too, leave primaries without an exponent alone
    gamma = int.from_bytes(given[b"gAMA"][:4], "big")
    primaries = struct.unpack(">8I", given[b"cHRM"]) if len(given.get(b"cHRM", b"")) == 32 else _SRGB_PRIMARIES
    like_srgb = all(abs(a - b) <= 1000 for a, b in zip(primaries, _SRGB_PRIMARIES, strict=True))
    if not 1000 <= gamma <= 1_000_000 or (like_srgb and abs(gamma - _SRGB_GAMMA) < 1000):
        return None
    pairs = tuple((primaries[i] / 1e5, primaries[i + 1] / 1e5) for i in range(0, 8, 2))
    try:
        return matrix_profile(1e5 / gamma, pairs)
    except (ArithmeticError, ValueError, struct.error, np.linalg.LinAlgError):
        return None
