"""BMPs: palettes of every depth, channels wherever masks say, and what has no meaning refused."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from proscale.errors import UndecodablePictureError
from proscale.pictures.intensity import parse_intensity
from proscale.pictures.reader import read_header, read_picture

LIMIT = 10**6


def masked(pixels: np.ndarray, *masks: int, header: int = 124, compression: int = 3, height: int | None = None) -> bytes:
    """A BMP of (H, W) uint16 or uint32 pixels, from the bottom unless `height` says otherwise."""
    bits, width = 8 * pixels.itemsize, pixels.shape[1]
    rows = np.pad(pixels, ((0, 0), (0, width % 2 if bits == 16 else 0))).tobytes()
    body = struct.pack("<iiHHIIiiII", width, height or len(pixels), 1, bits, compression, len(rows), 0, 0, 0, 0)
    words = struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + max(header, 40 + len(words))
    body = (struct.pack("<I", header) + body + words).ljust(start - 14, b"\0")
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + body + rows


def with_palette(bits: int, indices: np.ndarray, palette: np.ndarray, core: bool = False) -> bytes:
    """A BMP of (H, W) indices and an (entries, 3) RGB palette."""
    height, width = indices.shape
    digits = (indices[::-1, :, None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1)
    packed = np.packbits(digits.astype(np.uint8), axis=1)
    rows = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()
    if core:
        table, head = palette[:, ::-1].tobytes(), struct.pack("<I4H", 12, width, height, 1, bits)
    else:
        table = np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes()
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0)
    start = 14 + len(head) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + table + rows


def packed(channels: np.ndarray, masks: tuple[int, ...], kind: type) -> np.ndarray:
    """(H, W) pixels of (H, W, n) channels in the bits of masks."""
    whole = np.zeros(channels.shape[:2], np.uint64)
    for index, mask in enumerate(masks):
        whole |= channels[:, :, index].astype(np.uint64) << np.uint64((mask & -mask).bit_length() - 1)
    return whole.astype(kind)


@pytest.mark.parametrize(
    ("kind", "masks"),
    [
        (np.uint16, (0xF00, 0xF0, 0xF)),
        (np.uint16, (0xF00, 0xF0, 0xF, 0xF000)),
        (np.uint16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (np.uint16, (0xF800, 0x7E0, 0x1F)),
        (np.uint16, (0x1F, 0x7E0, 0xF800)),
        (np.uint16, (0xE0, 0x1C, 0x3)),
        (np.uint32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (np.uint32, (0x3FF, 0xFFC00, 0x3FF00000, 0xC0000000)),
        (np.uint32, (0xFF00, 0xFF, 0xFF0000)),
        (np.uint32, (0xFFFF0000, 0xFF00, 0xFF)),
        (np.uint32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    ],
    ids=lambda value: "-".join(map(hex, value)) if isinstance(value, tuple) else value.__name__,
)
@pytest.mark.parametrize("header", [40, 56, 108, 124])
def test_channels_lie_where_masks_say(kind: type, masks: tuple[int, ...], header: int) -> None:
    rng = np.random.default_rng(5)
    depths = np.array([mask.bit_count() for mask in masks])
    channels = rng.integers(0, 1 << depths, (7, 9, len(masks)))
    data = masked(packed(channels, masks, kind)[::-1], *masks, header=header, compression=6 if header == 40 and len(masks) == 4 else 3)
    full = channels / ((1 << depths) - 1)
    expected = np.round(full[:, :, :3] * 255)
    if len(masks) == 4:
        alpha = np.round(full[:, :, 3:] * 255) / 255
        expected = expected * alpha + 255 * (1 - alpha)
    rgb = read_picture(data, LIMIT).rgb.astype(int)
    assert np.abs(rgb - expected).max() <= 1  # of compositing


def test_ten_bits_are_samples_of_ten_bits() -> None:
    masks = (0x3FF00000, 0xFFC00, 0x3FF)
    channels = np.full((4, 4, 3), 100)
    channels[0, 0] = 200
    data = masked(packed(channels, masks, np.uint32)[::-1], *masks)
    assert read_picture(data, LIMIT, parse_intensity("100,200")).rgb[0, 0].tolist() == [255] * 3
    assert read_picture(data, LIMIT).rgb[0, 0].tolist() == [50] * 3


def test_the_usual_masks_are_read_as_pillow_reads_them() -> None:
    rng = np.random.default_rng(6)
    for kind, masks in (
        (np.uint16, (0xF800, 0x7E0, 0x1F)),
        (np.uint16, (0x7C00, 0x3E0, 0x1F)),
        (np.uint32, (0xFF0000, 0xFF00, 0xFF)),
        (np.uint32, (0xFF000000, 0xFF0000, 0xFF00)),
    ):
        pixels = rng.integers(0, np.iinfo(kind).max, (6, 5), kind, endpoint=True)
        data = masked(pixels, *masks)
        theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(read_picture(data, LIMIT).rgb.astype(int) - theirs).max() <= (1 if kind is np.uint16 else 0)  # they cut off


def test_rows_from_the_top_and_masks_left_at_zero() -> None:
    pixels = np.array([[0x00FF0000, 0x00FF0000], [0x0000FF00, 0x000000FF]], np.uint32)
    for masks in ((0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0, 0, 0, 0)):
        rgb = read_picture(masked(pixels, *masks, height=-2), LIMIT).rgb  # alpha that is 0 everywhere means nothing
        assert rgb.tolist() == [[[255, 0, 0], [255, 0, 0]], [[0, 255, 0], [0, 0, 255]]]


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth(bits: int, core: bool) -> None:
    rng = np.random.default_rng(bits)
    indices = rng.integers(0, 1 << bits, (5, 11))
    for palette in (
        rng.integers(0, 256, (1 << bits, 3), np.uint8),
        np.repeat(np.arange(1 << bits, dtype=np.uint8), 3).reshape(-1, 3),  # greys that are their own numbers
        np.linspace(255, 0, 3 << bits).astype(np.uint8).reshape(-1, 3),
    ):
        np.testing.assert_array_equal(read_picture(with_palette(bits, indices, palette, core), LIMIT).rgb, palette[indices])


def test_a_short_palette_of_black_and_white() -> None:
    """Pillow takes eight bits for one here."""
    indices = np.array([[1, 0, 1, 0], [0, 0, 1, 1]])
    palette = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    np.testing.assert_array_equal(read_picture(with_palette(8, indices, palette), LIMIT).rgb, palette[indices])
    np.testing.assert_array_equal(read_picture(with_palette(8, indices + 1, palette), LIMIT).rgb, palette[[1, 0]][indices])


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ((0xF0F, 0xF0, 0xF000), "have no meaning"),
        ((0xFF0, 0xFF, 0xF000), "have no meaning"),
        ((0xF0000, 0xF0, 0xF), "have no meaning"),
        ((0xF00, 0, 0xF), "lack a colour"),
    ],
)
def test_masks_without_a_meaning_are_refused(masks: tuple[int, ...], words: str) -> None:
    with pytest.raises(UndecodablePictureError, match=words):
        read_header(masked(np.zeros((2, 2), np.uint16), *masks), LIMIT)


def test_bmps_that_are_cut_off_are_refused_and_their_size_is_known_before() -> None:
    for data in (masked(np.zeros((8, 8), np.uint16), 0xF00, 0xF0, 0xF), with_palette(2, np.zeros((8, 8), int), np.zeros((4, 3), np.uint8))):
        header = read_header(data[:80], LIMIT)
        assert (header.format, header.height, header.width) == ("BMP", 8, 8)
        with pytest.raises(UndecodablePictureError, match="cut off"):
            read_picture(data[:-1], LIMIT)
