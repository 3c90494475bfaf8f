import io

import numpy as np
import pytest
from PIL import Image
from tests.service.pictures import encoded, gradient

from proscale.errors import PictureSizeError, UndecodablePictureError
from proscale.pictures import read_picture
from proscale.pictures.bounds import end_of_bmp, end_of_png, end_of_webp, webp_size
from proscale.pictures.jpeg import MAX_SCANS, end_of_jpeg

NOISE = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
ENDS = {"JPEG": end_of_jpeg, "PNG": end_of_png, "WEBP": end_of_webp, "BMP": end_of_bmp}


@pytest.mark.parametrize("form", ENDS)
def test_the_end_of_a_picture_is_found(form: str) -> None:
    data = encoded(NOISE, form)
    assert ENDS[form](data) == len(data)
    assert ENDS[form](data + b"more") == len(data)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}, {"quality": 1}, {"optimize": True}])
def test_the_end_is_found_in_every_kind_of_jpeg(options: dict[str, int]) -> None:
    data = encoded(NOISE, "JPEG", **options)
    assert end_of_jpeg(data + b"\xff\xd8\xff rest") == len(data)


def test_an_embedded_thumbnail_does_not_end_the_picture() -> None:
    data = encoded(NOISE, "JPEG", exif=b"Exif\x00\x00" + encoded(gradient(), "JPEG"))
    assert end_of_jpeg(data) == len(data)
    assert read_picture(data, 10_000).rgb.shape == NOISE.shape


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_two_pictures_in_one_are_refused(first: str, second: str) -> None:
    with pytest.raises(UndecodablePictureError, match="two pictures"):
        read_picture(encoded(NOISE, first) + encoded(gradient(), second), 10_000)


@pytest.mark.parametrize("form", ENDS)
@pytest.mark.parametrize("tail", [b"\0" * 9, b"\n", b"\0\0\0\x18ftypmp42", b"PK\x03\x04"])
def test_other_data_behind_a_picture_is_ignored(form: str, tail: bytes) -> None:
    assert read_picture(encoded(NOISE, form) + tail, 10_000).rgb.shape == NOISE.shape


def test_a_multi_picture_jpeg_is_one_picture() -> None:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(gradient())])
    assert read_picture(buffer.getvalue(), 10_000).rgb.shape == NOISE.shape


def test_a_scan_bomb_is_refused() -> None:
    data = encoded(NOISE, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    assert read_picture(data, 10_000).rgb.shape == NOISE.shape
    with pytest.raises(UndecodablePictureError, match="scans"):
        read_picture(data[:-2] + scan * MAX_SCANS + data[-2:], 10_000)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda\x00\x02abc", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIDAT"])
def test_a_cut_off_picture_has_no_end(data: bytes) -> None:
    assert end_of_jpeg(data) is None
    assert end_of_png(data) is None


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\x00\x00II*\x00"}])
def test_webp_size_is_known_before_pillow_makes_room(options: dict[str, object]) -> None:
    assert webp_size(encoded(NOISE, "WEBP", **options)) == (60, 80)
    assert webp_size(encoded(NOISE, "PNG")) is None


def test_a_huge_webp_canvas_is_refused_by_its_header() -> None:
    data = bytearray(encoded(NOISE, "WEBP", exif=b"Exif\x00\x00II*\x00"))
    data[24:30] = b"\xff\x3f\x00" * 2
    with pytest.raises(PictureSizeError, match="16384x16384"):
        read_picture(bytes(data), 10_000)
