"""JPEGs: whole ones are read as Pillow reads them; what is damaged in its scans is refused."""

import base64
import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from tests.service.pictures import encoded

from proscale.errors import UndecodablePictureError
from proscale.pictures import read_picture
from proscale.pictures.jpeg import read_segments

LIMIT = 1_000_000
_rows, _columns = np.mgrid[0:160, 0:200]
SCENE = np.stack([_rows + 30, 255 - _columns, (_rows * 3 + _columns) % 200], axis=2).astype(np.uint8)
SCENE[::7, ::5] ^= np.random.default_rng(0).integers(0, 60, SCENE[::7, ::5].shape, np.uint8)
KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
}


def as_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_ones_are_read_as_pillow_reads_them(options: dict[str, int], mode: str) -> None:
    options = {name: value for name, value in options.items() if mode == "RGB" or name != "subsampling"}
    data = encoded(Image.fromarray(SCENE).convert(mode), "JPEG", quality=80, **options)
    np.testing.assert_array_equal(read_picture(data, LIMIT).rgb, as_pillow(data))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_one_that_only_lacks_its_end_marker_is_whole(options: dict[str, int]) -> None:
    data = encoded(SCENE, "JPEG", **options)
    expected = as_pillow(data)
    assert data.endswith(b"\xff\xd9")
    for cut in (data[:-2], data[:-1]):
        np.testing.assert_array_equal(read_picture(cut, LIMIT).rgb, expected)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("glued", [b"", b"\xff\xd9", b"\0\0\xff\xd9"])
def test_cut_ones_are_refused_also_with_an_end_marker_glued_behind(options: dict[str, int], share: float, glued: bytes) -> None:
    data = encoded(SCENE, "JPEG", quality=90, **options)
    scan = read_segments(data)
    assert scan.end == len(data)
    begin = data.index(b"\xff\xda") + 14
    with pytest.raises(UndecodablePictureError, match="cut off"):
        read_picture(data[: begin + int((len(data) - begin) * share)] + glued, LIMIT)


def test_a_progressive_one_cut_between_its_scans_is_refused() -> None:
    data = encoded(SCENE, "JPEG", progressive=True)
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    assert len(starts) > 4
    for start in starts[1:]:
        with pytest.raises(UndecodablePictureError, match="some of its scans are missing"):
            read_picture(data[:start] + b"\xff\xd9", LIMIT)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("fill", [0, 0x55, 0xFF, None])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_holes_in_the_scan_are_refused(options: dict[str, int], fill: int | None, share: float) -> None:
    data = bytearray(encoded(SCENE, "JPEG", quality=90, **options))
    at, size = int(len(data) * share), 512
    data[at : at + size] = b"" if fill is None else bytes([fill]) * size
    with pytest.raises(UndecodablePictureError):
        read_picture(bytes(data), LIMIT)


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 300, b"\xff" * 5])
def test_padding_in_front_of_the_end_marker_is_no_damage(padding: bytes) -> None:
    data = encoded(SCENE, "JPEG")
    np.testing.assert_array_equal(read_picture(data[:-2] + padding + data[-2:], LIMIT).rgb, as_pillow(data))


def test_an_unknown_revision_of_jfif_is_no_damage() -> None:
    data = bytearray(encoded(SCENE, "JPEG"))
    data[data.index(b"JFIF\0") + 5] = 9
    np.testing.assert_array_equal(read_picture(bytes(data), LIMIT).rgb, as_pillow(bytes(data)))
    begin = data.index(b"\xff\xda") + 400
    with pytest.raises(UndecodablePictureError):
        read_picture(bytes(data[:begin]) + b"\xff\xd9", LIMIT)


def test_cmyk_stored_as_ycck_is_read() -> None:
    inks = np.dstack([255 - SCENE, np.full(SCENE.shape[:2], 20, np.uint8)])
    data = imagecodecs.jpeg8_encode(inks, level=95, colorspace="CMYK", outcolorspace="YCCK", subsampling="444")
    np.testing.assert_array_equal(read_picture(data, LIMIT).rgb, as_pillow(data))


def test_twelve_bits_are_refused_by_name() -> None:
    data = imagecodecs.jpeg_encode(np.zeros((16, 16), np.uint16), bitspersample=12)
    with pytest.raises(UndecodablePictureError, match="12 bits per sample"):
        read_picture(data, LIMIT)


ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/"
    "yQALCAAQABABAREA/8wABgAQEAX/2gAIAQEAAD8A/wCy8Se7kZWoD8wcJGbPwe2VoM+A/9k="
)
"""16x16 greys, eight times row plus column, written by libjpeg-turbo's cjpeg -arithmetic."""


def test_arithmetic_coding_is_read() -> None:
    data = base64.b64decode(ARITHMETIC)
    expected = np.add.outer(np.arange(16) * 8, np.arange(16) * 8)
    assert np.abs(read_picture(data, LIMIT).rgb[:, :, 0].astype(int) - expected).max() < 12
    with pytest.raises(UndecodablePictureError):
        read_picture(data[:-40] + b"\xff\xd9", LIMIT)


@pytest.mark.parametrize("space", ["RGB", "GRAY"])
def test_lossless_ones_of_eight_bits_are_read_exactly(space: str) -> None:
    pixels = SCENE if space == "RGB" else np.ascontiguousarray(SCENE[:, :, 0])
    data = imagecodecs.jpeg8_encode(pixels, lossless=True)
    np.testing.assert_array_equal(read_picture(data, LIMIT).rgb, SCENE if space == "RGB" else np.repeat(pixels[:, :, None], 3, axis=2))
