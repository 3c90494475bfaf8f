"""Mutated pictures: cut, spliced, overwritten, with other sizes in their headers, bombs, and files of other kinds. All from a seed."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from ..pictures import encoded, exif, gradient, png_header

_OTHERS = (
    b"",
    b"\x00",
    b"text",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"%PDF-1.7\n",
    b"GIF89a",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"II*\x00\x08\x00\x00\x00\xff\xff",
    b"BM" + b"\xff" * 60,
    b"\x00\x00\x00\x20ftypavif" + b"\x00" * 40,
    b"\x00\x00\x00\x0cjP  \r\n\x87\n\xff\xff",
    b"8BPS\x00\x01" + b"\xff" * 40,
    b"P6 99999 99999 255\n",
    b"\x76\x2f\x31\x01\x02",
)
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def originals() -> tuple[bytes, ...]:
    """Small pictures of every kind that is read."""
    colour = gradient()
    grey, image = colour[..., 0], Image.fromarray(colour)
    wide = (grey.astype(np.uint16) * 257).copy()
    return (
        *(encoded(colour, form) for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")),
        encoded(grey),
        encoded(grey, "JPEG"),
        encoded(wide),
        encoded(wide, "TIFF"),
        encoded(image.convert("P")),
        encoded(image.convert("1")),
        encoded(image.convert("RGBA"), "WEBP", lossless=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(colour, "JPEG", progressive=True, exif=exif(6)),
        encoded(colour, "TIFF", compression="tiff_lzw"),
        encoded(colour, "TIFF", compression="tiff_adobe_deflate"),
        encoded(colour, "TIFF", compression="jpeg"),
        encoded(image.convert("1"), "TIFF", compression="group4"),
        encoded(colour, "JPEG2000"),
        encoded(colour, "AVIF"),
        encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
    )


def mutant(rng: random.Random) -> bytes:
    """One picture's file, most often a broken one."""
    data = rng.choice(originals())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_MUTATIONS)(rng, data)
    return data


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(originals())
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _overwrite_number(rng: random.Random, data: bytes) -> bytes:
    """A number of an edge's value somewhere in the first bytes, where headers are."""
    size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
    at = rng.randrange(min(len(data), 120) + 1)
    value = rng.choice(_EDGES) & (1 << 8 * size) - 1
    return data[:at] + value.to_bytes(size, "little" if order == "little" else "big") + data[at + size :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(1, 200))
    return data[:end] + data[start:end] * rng.randrange(1, 50) + data[end:]


def _blank(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    length = min(len(data) - start, rng.randrange(1, 500))
    return data[:start] + bytes([rng.choice((0, 255))]) * length + data[start + length :]


def _other(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(_OTHERS) + (data if rng.random() < 0.3 else b"")


def _random(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(2000))


def _resized_header(rng: random.Random, data: bytes) -> bytes:
    """Another width and height, with a checksum that is right."""
    width, height = rng.choice(_EDGES), rng.choice((1, 24, 4000, 65535, 2**31 - 1))
    if data.startswith(b"\x89PNG"):
        ihdr = b"IHDR" + struct.pack(">II", width, height) + bytes(rng.choice(((8, 2), (1, 3), (16, 6), (8, 3), (4, 0)))) + b"\0\0\0"
        return data[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + data[33:]
    if data.startswith(b"\xff\xd8") and (at := max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))) > 0:
        return data[: at + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + data[at + 9 :]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<II", width, height) + data[26:]
    if data.startswith(b"GIF"):
        return data[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + data[10:]
    return _overwrite_number(rng, data)


def _bomb(rng: random.Random, data: bytes) -> bytes:
    """Little that becomes much."""
    kind = rng.randrange(4)
    if kind == 0:
        return png_header(rng.choice((1, 3000, 100_000)), rng.choice((6000, 2**31 - 1)), *rng.choice(((8, 2), (16, 6), (1, 0))))
    if kind == 1:  # text of a PNG that is packed
        text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(5_000_000))
        return data[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + data[33:]
    if kind == 2:
        stored = io.BytesIO()
        with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", bytes(3_000_000))
        return stored.getvalue()
    big = Image.new("1", (6000, 6000))  # inside the limit of pixels, and dear enough
    return encoded(big, "TIFF", compression="group4")


_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_cut, _cut, _splice, _flip, _flip, _overwrite_number, _overwrite_number, _resized_header, _resized_header),
    *(_repeat, _blank, _other, _random, _bomb),
)
