"""Writes TIFFs of every kind, byte by byte, so that what they hold is known."""

import itertools
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHORT, LONG = 3, 4


def packed(samples: NDArray[Any], bits: int, order: str) -> bytes:
    """Rows of samples (H, W * samples per pixel), each row padded to whole bytes; below 8 and of 12 bits most significant first."""
    if bits in (8, 16, 32, 64):
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    rows = (samples[:, :, None] >> shifts & 1).reshape(len(samples), -1).astype(np.uint8)
    return np.packbits(rows, axis=1).tobytes()


def tiff(
    pixels: NDArray[Any],
    photometric: int,
    bits: int = 8,
    *,
    order: str = "<",
    sample_format: int | None = None,
    extra: Sequence[int] = (),
    planar: int = 1,
    deflate: bool = False,
    fill_order: int = 1,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    tags: Mapping[int, Sequence[int]] = {},
) -> bytes:
    """A TIFF of one page; `pixels` is (H, W) or (H, W, samples)."""
    return pages(
        [
            page(
                *(pixels, photometric, bits, order, sample_format, extra, planar, deflate, fill_order, rows_per_strip, tile),
                tags=tags,
            )
        ],
        order,
    )


def page(
    pixels: NDArray[Any],
    photometric: int,
    bits: int = 8,
    order: str = "<",
    sample_format: int | None = None,
    extra: Sequence[int] = (),
    planar: int = 1,
    deflate: bool = False,
    fill_order: int = 1,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    *,
    tags: Mapping[int, Sequence[int]] = {},
) -> tuple[dict[int, tuple[int, Sequence[int]]], list[bytes], bool]:
    """Tags and strips or tiles of one page."""
    stack = pixels[:, :, None] if pixels.ndim == 2 else pixels
    height, width, count = stack.shape
    planes = [stack] if planar == 1 else [stack[:, :, i : i + 1] for i in range(count)]
    blocks = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            cut = [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
        else:
            step = rows_per_strip or height
            cut = [plane[y : y + step] for y in range(0, height, step)]
        blocks += [packed(block.reshape(len(block), -1), bits, order) for block in cut]
    if fill_order == 2:
        blocks = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in block) for block in blocks]
    if deflate:
        blocks = [zlib.compress(block) for block in blocks]
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * count),
        259: (SHORT, [8 if deflate else 1]),
        262: (SHORT, [photometric]),
        277: (SHORT, [count]),
        284: (SHORT, [planar]),
    }
    entries |= {322: (LONG, [tile]), 323: (LONG, [tile])} if tile else {278: (LONG, [rows_per_strip or height])}
    if fill_order != 1:
        entries[266] = (SHORT, [fill_order])
    if extra:
        entries[338] = (SHORT, extra)
    if sample_format is not None:
        entries[339] = (SHORT, [sample_format] * count)
    entries |= {tag: (LONG if tag in (254, 330) else SHORT, values) for tag, values in tags.items()}
    return entries, blocks, bool(tile)


def pages(
    given: Sequence[tuple[dict[int, tuple[int, Sequence[int]]], list[bytes], bool]], order: str = "<", sub_page: bool = False
) -> bytes:
    """A file of pages; with `sub_page` the second one is a sub-page of the first."""
    data = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0))
    directories: list[tuple[int, int, int]] = []
    for entries, blocks, tiled in given:
        offsets = []
        for block in blocks:
            offsets.append(len(data))
            data += block + bytes(len(block) % 2)
        entries = dict(entries)
        entries[324 if tiled else 273] = (LONG, offsets)
        entries[325 if tiled else 279] = (LONG, [len(block) for block in blocks])
        if sub_page and not directories:
            entries[330] = (LONG, [0])
        table, sub_at = bytearray(), 0
        values_at = {}
        for tag, (kind, values) in sorted(entries.items()):
            packed_values = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
            if len(packed_values) > 4:
                values_at[tag] = len(data)
                data += packed_values + bytes(len(packed_values) % 2)
                packed_values = struct.pack(order + "I", values_at[tag])
            table += struct.pack(order + "HHI", tag, kind, len(values)) + packed_values.ljust(4, b"\0")
            if tag == 330:
                sub_at = len(table) - 4
        start = len(data)
        data += struct.pack(order + "H", len(entries)) + table + bytes(4)
        directories.append((start, start + 2 + sub_at, len(data) - 4))
    struct.pack_into(order + "I", data, 4, directories[0][0])
    for (_, sub_at, next_at), (following, _, _) in itertools.pairwise(directories):
        struct.pack_into(order + "I", data, sub_at if sub_page else next_at, following)
    return bytes(data)
