"""PNGs: metadata is skipped, exactly the transparent colour is transparent, 16 bits count."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.service.pictures import encoded, exif, gradient

from proscale.pictures import parse_intensity, read_header, read_picture

LIMIT = 1_000_000
RGB, GREY = 2, 0


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: NDArray[Any], depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of (H, W) or (H, W, samples), with further chunks in front of its pixels."""
    rows = values.reshape(len(values), -1)
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        shifts = np.arange(depth - 1, -1, -1)
        packed = [np.packbits((row[:, None] >> shifts & 1).astype(np.uint8).reshape(-1)).tobytes() for row in rows]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in packed))
    body = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_exactly_one_grey_is_transparent(depth: int) -> None:
    top = (1 << depth) - 1
    values = np.linspace(0, top, 8 * 40).round().astype(np.uint16).reshape(8, 40)
    for colour in sorted({0, 1, top // 2, top}):
        values[0, 0] = colour
        if depth == 16:  # the same high byte, and the same low byte, of other colours
            values[1, :2] = colour ^ 1, (colour + 256) % 65536
        rgb = read_picture(png(values, depth, GREY, (b"tRNS", struct.pack(">H", colour))), LIMIT).rgb
        expected = np.floor(values * (255 / top) + 0.5)
        expected[values == colour] = 255
        np.testing.assert_array_equal(rgb[:, :, 1], expected, err_msg=str(colour))


@pytest.mark.parametrize("depth", [8, 16])
def test_exactly_one_rgb_is_transparent(depth: int) -> None:
    values = np.random.default_rng(3).integers(0, 1 << depth, (9, 11, 3)).astype(np.uint16)
    colour = (values[4, 4]).tolist()
    values[5, 5] = colour[0], colour[1], colour[2] ^ 1
    values[6, 6] = colour[0] ^ (1 << (depth - 1)), colour[1], colour[2]
    rgb = read_picture(png(values, depth, RGB, (b"tRNS", struct.pack(">3H", *colour))), LIMIT).rgb
    expected = np.floor(values / (257 if depth == 16 else 1) + 0.5)
    expected[4, 4] = 255
    assert np.abs(rgb - expected).max() == 0
    assert (rgb[5, 5] != 255).any()


def test_unused_bits_of_the_transparent_colour_do_not_count() -> None:
    values = np.array([[0, 1, 2, 3]], np.uint16)
    rgb = read_picture(png(values, 2, GREY, (b"tRNS", struct.pack(">H", 0xFF02))), LIMIT).rgb
    assert rgb[0, :, 0].tolist() == [0, 85, 255, 255]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_with_an_alpha_table_are_composited(depth: int) -> None:
    values = np.arange(8 * 16, dtype=np.uint16).reshape(8, 16) % (1 << depth)
    colours = np.random.default_rng(1).integers(0, 256, (1 << depth, 3)).astype(np.uint8)
    rgb = read_picture(png(values, depth, 3, (b"PLTE", colours.tobytes()), (b"tRNS", bytes([255, 0]))), LIMIT).rgb
    shown = colours.copy()
    shown[1] = 255
    np.testing.assert_array_equal(rgb, shown[values])


BIG = np.random.default_rng(2).bytes(1_300_000)
METADATA = {
    "colour profile": (b"iCCP", b"name\0\0" + zlib.compress(BIG)),
    "compressed text": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
    "international text": (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
    "plain text": (b"tEXt", b"Comment\0" + b"x" * 1_300_000),
    "broken text": (b"zTXt", b"Comment\0\0broken"),
    "broken profile": (b"iCCP", b"name without an end"),
    "broken EXIF": (b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "unknown": (b"teSt", b"x" * 1_300_000),
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_is_skipped(metadata: tuple[bytes, bytes]) -> None:
    values = gradient().astype(np.uint16)
    np.testing.assert_array_equal(read_picture(png(values, 8, RGB, metadata), LIMIT).rgb, gradient())
    np.testing.assert_array_equal(read_picture(png(values, 8, RGB, *[metadata] * 3), LIMIT).rgb, gradient())


@pytest.mark.parametrize(
    "metadata",
    [
        (b"eXIf", exif(6).tobytes()[6:]),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n   99\n" + exif(6).tobytes()[6:].hex().encode())),
        (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'),
    ],
    ids=["eXIf", "ImageMagick's", "XMP"],
)
def test_orientation_of_every_kind_of_metadata(metadata: tuple[bytes, bytes]) -> None:
    data = png(gradient().astype(np.uint16), 8, RGB, metadata)
    picture = read_picture(data, LIMIT)
    assert picture.header.orientation == read_header(data, LIMIT).orientation == 6
    np.testing.assert_array_equal(picture.rgb, np.rot90(gradient(), -1))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_data_of_fewer_bits_in_sixteen_gets_a_hint_and_can_be_stretched(samples: int, bits: int) -> None:
    values = np.linspace(0, (1 << bits) - 1, 20 * 30 * samples).astype(np.uint16).reshape(20, 30, samples)
    data = png(values, 16, RGB if samples == 3 else GREY)
    (warning,) = read_picture(data, LIMIT).warnings
    assert f"{bits} bits" in warning
    assert f"intensity=0,{(1 << bits) - 1}" in warning
    for text in ("minmax", f"0,{(1 << bits) - 1}"):
        stretched = read_picture(data, LIMIT, parse_intensity(text))
        assert stretched.warnings == ()
        expected = np.floor(values * (255 / ((1 << bits) - 1)) + 0.5)
        assert np.abs(stretched.rgb - expected).max() == 0


@pytest.mark.parametrize("top", [65535, 40000])
def test_ordinary_data_of_sixteen_bits_gets_no_hint(top: int) -> None:
    values = np.linspace(0, top, 600).astype(np.uint16).reshape(20, 30)
    assert read_picture(png(values, 16, GREY), LIMIT).warnings == ()
    assert read_picture(encoded(gradient()), LIMIT).warnings == ()


def test_a_picture_of_transparent_pixels_alone_gets_a_hint() -> None:
    picture = np.dstack([gradient(), np.zeros((24, 40), np.uint8)])
    (warning,) = read_picture(encoded(picture), LIMIT).warnings
    assert "transparent" in warning


def words(values: Sequence[int]) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def test_a_gama_of_one_is_linear_light() -> None:
    """gAMA 100000: samples are proportional to light; sRGB's value of half the light is 188."""
    values = np.full((4, 4, 3), 128, np.uint16)
    assert abs(int(read_picture(png(values, 8, RGB, (b"gAMA", words([100_000]))), LIMIT).rgb[0, 0, 0]) - 188) <= 1
    for same in ((b"gAMA", words([45455])), (b"sRGB", b"\0")):
        assert read_picture(png(values, 8, RGB, same), LIMIT).rgb[0, 0, 0] == 128
    both = png(values, 8, RGB, (b"sRGB", b"\0"), (b"gAMA", words([100_000])))
    assert read_picture(both, LIMIT).rgb[0, 0, 0] == 128


def test_primaries_are_converted() -> None:
    """Display P3's white is sRGB's white, and its red is out of sRGB's reach."""
    p3 = (b"cHRM", words([31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000]))
    values = np.array([[[255, 255, 255], [200, 60, 60], [128, 128, 128]]], np.uint16)
    white, red, grey = read_picture(png(values, 8, RGB, (b"gAMA", words([45455])), p3), LIMIT).rgb[0].astype(int)
    assert white.min() >= 254
    assert np.ptp(grey) <= 1
    assert red[0] > 210
    assert red[1] < 50


def adam7(values: NDArray[Any], depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """An interlaced PNG of 16 bits per sample."""
    rows = b""
    for y, x, down, right in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        part = values[y::down, x::right]
        if part.size:
            rows += b"".join(b"\0" + row.astype(">u2").tobytes() for row in part.reshape(len(part), -1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour_type, 0, 0, 1)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body)


@pytest.mark.parametrize("samples", [3, 4])
def test_sixteen_bits_of_interlaced_colours_are_exact_too(samples: int) -> None:
    values = np.random.default_rng(4).integers(0, 4096, (13, 21, samples)).astype(np.uint16)
    if samples == 4:
        values[:, :, 3] = 65535
    data = adam7(values, 16, RGB if samples == 3 else 6)
    expected = np.floor(values[:, :, :3] * (255 / 4095) + 0.5)
    assert np.abs(read_picture(data, LIMIT, parse_intensity("0,4095")).rgb - expected).max() == 0
    if samples == 3:
        data = adam7(values, 16, RGB, (b"tRNS", struct.pack(">3H", *values[3, 3].tolist())))
        white = np.argwhere((read_picture(data, LIMIT).rgb == 255).all(axis=2)).tolist()
        assert white == [[3, 3]]


def test_thousands_of_text_chunks_are_skipped_quickly() -> None:
    text = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1 << 20)))
    data = png(gradient().astype(np.uint16), 8, RGB, *[text] * 2000)
    np.testing.assert_array_equal(read_picture(data, LIMIT).rgb, gradient())
