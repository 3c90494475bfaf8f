"""The newer formats, and BMP's odd alpha: read, bounded by their header, and named when a package is missing."""

import importlib
import io
import struct
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, features
from tests.service.pictures import encoded, exif, gradient, stored_for

from proscale.errors import PictureSizeError, UndecodablePictureError
from proscale.pictures import read_header, read_picture
from proscale.pictures.formats import sniff
from proscale.pictures.jxl import jxl_size

LIMIT = 100_000
SMOOTH = np.asarray(Image.fromarray(gradient(4, 4)).resize((80, 64), Image.Resampling.BICUBIC))


def heif(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=95)
    return buffer.getvalue()


FILES = {
    "AVIF": lambda pixels: encoded(pixels, "AVIF", quality=95),
    "JPEG2000": lambda pixels: encoded(pixels, "JPEG2000"),
    "HEIF": heif,
    "JXL": lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True),
}


@pytest.mark.parametrize("form", FILES)
def test_every_format_is_read(form: str) -> None:
    data = FILES[form](SMOOTH)
    picture = read_picture(data, LIMIT)
    assert picture.header.format == form
    assert picture.rgb.shape == SMOOTH.shape
    assert np.abs(picture.rgb.astype(int) - SMOOTH).mean() < (0.01 if form in ("JPEG2000", "JXL") else 4)


@pytest.mark.parametrize("form", FILES)
def test_their_size_is_bounded_before_they_are_decoded(form: str) -> None:
    data = FILES[form](SMOOTH)
    assert read_header(data, 64 * 80).width == 80
    for read in (read_header, read_picture):
        with pytest.raises(PictureSizeError, match="80x64"):
            read(data, 64 * 80 - 1)


@pytest.mark.parametrize("form", FILES)
def test_cut_and_damaged_ones_are_refused(form: str) -> None:
    data = FILES[form](np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    with pytest.raises(UndecodablePictureError):
        read_picture(data[: len(data) // 2], LIMIT)


@pytest.mark.parametrize(
    ("form", "options", "damage"),
    [
        *((form, {}, damage) for form in ("PNG", "GIF", "JXL") for damage in ("zeros", "noise")),
        ("JPEG", {}, "zeros"),
        ("JPEG", {"progressive": True}, "zeros"),
        ("TIFF", {"compression": "tiff_lzw"}, "noise"),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, "zeros"),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, "noise"),
        ("TIFF", {"compression": "jpeg"}, "zeros"),
    ],
)
def test_a_hole_in_the_middle_is_refused(form: str, options: dict[str, object], damage: str) -> None:
    """Of the formats whose decoders notice; docs/http.md names those that do not."""
    rough = np.random.default_rng(2).integers(0, 40, (64, 80, 3), np.uint8) + SMOOTH // 2
    data = bytearray(FILES[form](rough) if form in FILES else encoded(rough, form, **options))
    middle, length = len(data) // 2, len(data) // 10
    data[middle : middle + length] = bytes(length) if damage == "zeros" else np.random.default_rng(7).bytes(length)
    with pytest.raises(UndecodablePictureError):
        read_picture(bytes(data), LIMIT)


@pytest.mark.parametrize(("form", "package", "words"), [("HEIF", "pillow_heif", "HEIC"), ("JXL", "pillow_jxl", "JPEG XL")])
def test_a_missing_package_is_named(form: str, package: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[form](SMOOTH)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UndecodablePictureError, match=rf"{words} .*pip install 'proscale-segmentation-service\[pictures\]'"):
        read_header(data, LIMIT)


@pytest.mark.parametrize(("form", "words"), [("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000")])
def test_a_pillow_without_a_codec_is_named(form: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UndecodablePictureError, match=f"without {words}.*pip install"):
        read_header(FILES[form](SMOOTH), LIMIT)


def test_the_extra_brings_what_the_errors_name() -> None:
    for package in ("pillow-heif", "pillow-jxl-plugin", "tifffile", "imagecodecs"):
        assert importlib.metadata.version(package)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 80), (37, 1000), (2000, 3), (90, 120), (90, 160), (300, 300), (256, 256)])
def test_the_size_of_a_jpeg_xl_is_known_without_its_decoder(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    bare = imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=False)
    boxed = imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=True)
    assert jxl_size(bare) == jxl_size(boxed) == size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_upright(orientation: int) -> None:
    data = encoded(stored_for(SMOOTH, orientation), "AVIF", quality=95, exif=exif(orientation))
    picture = read_picture(data, LIMIT)
    assert picture.header.orientation == orientation
    assert np.abs(picture.rgb.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_upright(orientation: int) -> None:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(stored_for(SMOOTH, orientation))).save(buffer, quality=95, exif=exif(orientation).tobytes())
    assert np.abs(read_picture(buffer.getvalue(), LIMIT).rgb.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_jpeg_2000_is_read(dtype: type, top: int) -> None:
    grey: np.ndarray = np.linspace(0, top, 64 * 80).astype(dtype).reshape(64, 80)
    rgb = read_picture(imagecodecs.jpeg2k_encode(grey, reversible=True), LIMIT).rgb
    assert np.abs(rgb[:, :, 0].astype(int) - grey * 255.0 / top).max() <= 1


def bmp(pixels: np.ndarray, alpha_mask: int) -> bytes:
    """A BMP of 32 bits with colour masks, (H, W, 4) BGRA."""
    height, width = pixels.shape[:2]
    header = struct.pack("<IiiHHIIiiII", 124, width, -height, 1, 32, 3, pixels.size, 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, alpha_mask) + bytes(124 - len(header) - 16)
    return b"BM" + struct.pack("<IHHI", 14 + 124 + pixels.size, 0, 0, 138) + header + pixels.tobytes()


def test_bmp_alpha_counts_unless_it_is_zero_everywhere() -> None:
    pixels = np.dstack([gradient()[:, :, ::-1], np.zeros((24, 40), np.uint8)])
    for mask in (0, 0xFF000000):
        np.testing.assert_array_equal(read_picture(bmp(pixels, mask), LIMIT).rgb, gradient())
    pixels[:, 20:, 3] = 255
    rgb = read_picture(bmp(pixels, 0xFF000000), LIMIT).rgb
    assert (rgb[:, :20] == 255).all()
    np.testing.assert_array_equal(rgb[:, 20:], gradient()[:, 20:])
    np.testing.assert_array_equal(read_picture(encoded(Image.fromarray(gradient()), "BMP"), LIMIT).rgb, gradient())


def test_formats_are_recognised_by_their_bytes() -> None:
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        assert sniff(encoded(gradient(), form)) == form
    for data in (b"", b"text", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE"):
        assert sniff(data) is None


def test_a_jpeg_2000_whose_box_promises_fewer_pixels_is_judged_by_its_codestream() -> None:
    data = bytearray(encoded(Image.new("RGB", (900, 800)), "JPEG2000"))
    box = data.index(b"ihdr") + 4
    data[box : box + 8] = struct.pack(">II", 8, 8)
    with pytest.raises(PictureSizeError, match="900x800"):
        read_picture(bytes(data), LIMIT)
