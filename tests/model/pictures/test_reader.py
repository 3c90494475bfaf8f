from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.service.pictures import encoded, exif, gradient, png_header, stored_for

from proscale.errors import EmptyPictureError, PictureError, PictureSizeError, UndecodablePictureError
from proscale.pictures import DecodedPicture, read_header, read_picture

LIMIT = 1_000_000
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "BMP": {}}


def rgb(data: bytes) -> np.ndarray:
    picture = read_picture(data, LIMIT)
    array, header = picture.rgb, picture.header
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    assert array.shape == (header.height, header.width, 3)
    return array


def outcome(function: Callable[[bytes, int], Any], data: bytes) -> Any:
    try:
        return function(data, LIMIT)
    except PictureError as error:
        return error


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_give_the_pixels_back(form: str) -> None:
    np.testing.assert_array_equal(rgb(encoded(gradient(), form, **LOSSLESS[form])), gradient())


def test_jpeg_pixels_are_close() -> None:
    smooth = np.asarray(Image.fromarray(gradient(4, 4)).resize((64, 48), Image.Resampling.BICUBIC))
    assert np.abs(rgb(encoded(smooth, "JPEG", quality=95, subsampling=0)).astype(int) - smooth).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_is_applied_and_reported(form: str, orientation: int) -> None:
    upright = np.asarray(Image.fromarray(gradient(3, 5)).resize((40, 24), Image.Resampling.NEAREST))
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    data = encoded(stored_for(upright, orientation), form, exif=exif(orientation), **options)
    picture = read_picture(data, LIMIT)
    array, header = picture.rgb, picture.header
    assert (header.height, header.width, header.orientation) == (24, 40, orientation)
    assert np.abs(array.astype(int) - upright).max() <= (6 if form == "JPEG" else 0)
    early = read_header(data, LIMIT)
    assert (early.height, early.width, early.orientation) == (24, 40, orientation)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_orientation_is_ignored(value: int) -> None:
    picture = read_picture(encoded(gradient(), exif=exif(value)), LIMIT)
    array, header = picture.rgb, picture.header
    assert header.orientation == 1
    np.testing.assert_array_equal(array, gradient())


def test_broken_exif_is_ignored() -> None:
    data = encoded(gradient(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    np.testing.assert_array_equal(rgb(data), gradient())


def test_exif_behind_the_pixels_of_a_png_is_applied() -> None:
    with_exif, without = encoded(gradient(), exif=exif(3)), encoded(gradient())
    start = with_exif.index(b"eXIf") - 4
    chunk = with_exif[start : start + 12 + int.from_bytes(with_exif[start : start + 4], "big")]
    picture = read_picture(without[:-12] + chunk + without[-12:], LIMIT)
    array, header = picture.rgb, picture.header
    assert header.orientation == 3
    np.testing.assert_array_equal(array, gradient()[::-1, ::-1])


def test_alpha_is_composited_on_white() -> None:
    picture = np.dstack([gradient(), np.full((24, 40), 255, np.uint8)])
    picture[:, :10, 3] = 0
    picture[:, 10:20] = (100, 100, 100, 128)
    array = rgb(encoded(picture))
    assert (array[:, :10] == 255).all()
    assert abs(int(array[0, 15, 0]) - (100 * 128 + 255 * 127) // 255) <= 1
    np.testing.assert_array_equal(array[:, 20:], gradient()[:, 20:])


def test_grey_with_alpha_is_composited() -> None:
    image = Image.new("LA", (8, 6), (10, 255))
    image.putpixel((0, 0), (10, 0))
    array = rgb(encoded(image))
    assert array[0, 0].tolist() == [255, 255, 255]
    assert array[5, 7].tolist() == [10, 10, 10]


def test_palettes_with_and_without_transparency_are_read() -> None:
    image = Image.new("P", (8, 6), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((2, 1), 0)
    assert rgb(encoded(image))[0, 0].tolist() == [200, 100, 50]
    for form in ("PNG", "GIF"):
        array = rgb(encoded(image, form, transparency=0))
        assert array[0, 0].tolist() == [200, 100, 50]
        assert array[1, 2].tolist() == [255, 255, 255], form


def test_palettes_with_an_alpha_table_are_composited() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert rgb(encoded(image, transparency=bytes([255, 0])))[0, 0].tolist() == [255, 255, 255]


def test_the_transparent_colour_of_an_rgb_png_is_white() -> None:
    picture = np.full((4, 4, 3), 9, np.uint8)
    picture[0, 0] = (1, 2, 3)
    array = rgb(encoded(picture, transparency=(1, 2, 3)))
    assert array[0, 0].tolist() == [255, 255, 255]
    assert array[1, 1].tolist() == [9, 9, 9]


def test_grey_and_one_bit_pictures_are_read() -> None:
    grey = gradient()[:, :, 0]
    np.testing.assert_array_equal(rgb(encoded(grey)), np.repeat(grey[:, :, None], 3, axis=2))
    bits = Image.fromarray(grey > 100)
    np.testing.assert_array_equal(rgb(encoded(bits))[:, :, 1], (grey > 100) * 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(form: str) -> None:
    values = np.array([[0, 256, 257, 32768, 65535, 128, 129]], np.uint16)
    assert rgb(encoded(values, form))[0, :, 0].tolist() == [0, 1, 1, 128, 255, 0, 1]


def test_sixteen_bits_of_both_byte_orders_are_read() -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    image = Image.frombytes("I;16B", (values.shape[1], 1), values.astype(">u2").tobytes())
    assert rgb(encoded(image, "TIFF"))[0, :, 2].tolist() == list(range(256))


def test_cmyk_is_converted() -> None:
    white, red = Image.new("CMYK", (8, 8), (0, 0, 0, 0)), Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for form in ("TIFF", "JPEG"):
        assert rgb(encoded(white, form)).min() > 245
        pixel = rgb(encoded(red, form))[4, 4].tolist()
        assert pixel[0] > 240, form
        assert max(pixel[1:]) < 15, form


@pytest.mark.parametrize(("mode", "words"), [("F", "floating point"), ("I", "32-bit signed integer")])
def test_pixels_without_a_range_are_refused(mode: str, words: str) -> None:
    with pytest.raises(UndecodablePictureError, match=words):
        read_picture(encoded(Image.new(mode, (4, 4)), "TIFF"), LIMIT)


def test_lab_is_converted() -> None:
    pixel = rgb(encoded(Image.new("LAB", (4, 4), (138, 209, 198)), "TIFF"))[0, 0].tolist()
    assert pixel[0] > 240
    assert max(pixel[1:]) < 15


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_read(form: str) -> None:
    first, second = Image.new("RGB", (8, 6), (200, 0, 0)), Image.new("RGB", (8, 6), (0, 200, 0))
    options = {"WEBP": {"lossless": True}}.get(form, {})
    data = encoded(first, form, save_all=True, append_images=[second], **options)
    assert rgb(data)[3, 3].tolist() == [200, 0, 0]


def test_around_a_gifs_small_frame_there_is_white() -> None:
    """Whatever background colour the file names: browsers, too, draw nothing there."""
    palette = Image.new("P", (8, 6), 1)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    data = bytearray(encoded(palette, "GIF"))
    data[6:10] = (12).to_bytes(2, "little") + (9).to_bytes(2, "little")
    descriptor = data.index(b",\x00\x00\x00\x00", 13)
    data[descriptor + 1 : descriptor + 5] = (3).to_bytes(2, "little") + (2).to_bytes(2, "little")
    shown = rgb(bytes(data))
    expected = np.full((9, 12, 3), 255, np.uint8)
    expected[2:8, 3:11] = (200, 0, 0)
    np.testing.assert_array_equal(shown, expected)


def test_pictures_of_one_pixel_and_one_row_are_read() -> None:
    assert rgb(encoded(gradient(1, 1))).shape == (1, 1, 3)
    assert rgb(encoded(gradient(1, 10000))).shape == (1, 10000, 3)


def test_size_is_judged_by_the_header() -> None:
    data = png_header(20000, 20000)
    assert len(data) < 10_000
    for check in (read_header, read_picture):
        with pytest.raises(PictureSizeError, match="20000x20000"):
            check(data, 40_000_000)


def test_limit_is_inclusive() -> None:
    assert read_picture(encoded(gradient(10, 10)), 100).rgb.shape == (10, 10, 3)
    with pytest.raises(PictureSizeError):
        read_picture(encoded(gradient(10, 11)), 100)


def test_pillows_own_limits_do_not_warn() -> None:
    assert read_header(png_header(15000, 15000), 10**9).width == 15000


def test_empty_is_malformed_and_text_is_no_picture() -> None:
    with pytest.raises(EmptyPictureError):
        read_picture(b"", LIMIT)
    for data in (b"hello, I am a picture\n" * 40, b"\xff", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"P6 1 1 255 abc"):
        with pytest.raises(UndecodablePictureError, match="JPEG"):
            read_picture(data, LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@given(share=st.floats(0.02, 0.93))
def test_cut_off_pictures_are_undecodable(form: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = encoded(noise, form)
    with pytest.raises(UndecodablePictureError):
        read_picture(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_the_header_of_a_cut_off_picture_is_read(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    header = read_header(encoded(noise, form)[:20_000], LIMIT)
    assert (header.height, header.width) == (200, 300)


@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]), data=st.data())
def test_damage_is_a_clear_error_or_a_picture(form: str, data: st.DataObject) -> None:
    original = bytearray(encoded(gradient(), form))
    for _ in range(data.draw(st.integers(1, 6))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    for function in (read_picture, read_header):
        result = outcome(function, bytes(original))
        if isinstance(result, PictureError):
            assert isinstance(result, PictureSizeError | UndecodablePictureError)
            assert "Traceback" not in str(result)
            assert "object at" not in str(result)
        else:
            header = result.header if isinstance(result, DecodedPicture) else result
            assert header.height * header.width <= LIMIT


@given(st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_a_clear_error(data: bytes) -> None:
    result = outcome(read_picture, data)
    assert isinstance(result, DecodedPicture | EmptyPictureError | PictureSizeError | UndecodablePictureError)


def test_frames_larger_than_the_canvas_are_bounded() -> None:
    data = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    descriptor = data.index(b",\x00\x00\x00\x00", 13)
    data[descriptor + 5 : descriptor + 9] = (5000).to_bytes(2, "little") * 2
    with pytest.raises((PictureSizeError, UndecodablePictureError)):
        read_picture(bytes(data), LIMIT)


def test_no_file_stays_open(recwarn: pytest.WarningsRecorder) -> None:
    for _ in range(3):
        read_picture(encoded(gradient(), "TIFF"), LIMIT)
        with pytest.raises(UndecodablePictureError):
            read_picture(encoded(gradient(), "TIFF")[:300], LIMIT)
    assert not recwarn.list
