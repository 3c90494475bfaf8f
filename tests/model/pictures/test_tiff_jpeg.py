"""JPEG inside TIFF: whole ones are read, ones with a hole are refused instead of answered with grey."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from proscale.errors import UndecodablePictureError
from proscale.pictures import read_picture

RGB = Image.fromarray(np.random.default_rng(3).integers(0, 256, (12, 13, 3), np.uint8)).resize((400, 384), Image.Resampling.BICUBIC)
LIMIT = 10**7


def by_pillow(mode: str) -> bytes:
    stored = io.BytesIO()
    RGB.convert(mode).save(stored, "TIFF", compression="jpeg")
    return stored.getvalue()


def by_tifffile(**options: Any) -> bytes:
    stored = io.BytesIO()
    pixels = np.asarray(RGB)
    tifffile.imwrite(
        stored, np.moveaxis(pixels, 2, 0) if options.get("planarconfig") == "separate" else pixels, compression="jpeg", **options
    )
    return stored.getvalue()


FILES = {
    "grey": by_pillow("L"),
    "colour": by_pillow("RGB"),
    "inks": by_pillow("CMYK"),
    "rgb strips": by_tifffile(photometric="rgb"),
    "rgb tiles": by_tifffile(photometric="rgb", tile=(64, 64)),
    "luma chroma tiles": by_tifffile(photometric="ycbcr", tile=(64, 64)),
    "subsampled": by_tifffile(photometric="ycbcr", subsampling=(2, 2)),
    "planes": by_tifffile(photometric="rgb", planarconfig="separate"),
}


def strips(data: bytes) -> list[tuple[int, int]]:
    """Offset and length of every strip or tile."""
    with Image.open(io.BytesIO(data)) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        return list(zip(tags.get(324) or tags.get(273), tags.get(325) or tags.get(279), strict=True))


@pytest.mark.parametrize("name", FILES)
def test_complete_files_are_read(name: str) -> None:
    picture = read_picture(FILES[name], LIMIT)
    assert picture.rgb.shape == (384, 400, 3)
    if name not in ("grey", "luma chroma tiles", "subsampled"):  # of the last two the pixels were taken for luma and chroma
        assert np.abs(picture.rgb.astype(int) - np.asarray(RGB)).mean() < 6


@pytest.mark.parametrize("name", FILES)
def test_a_strip_that_ends_early_is_refused(name: str) -> None:
    data = bytearray(FILES[name])
    offset, length = strips(FILES[name])[-1]
    middle = offset + length // 2
    data[middle : offset + length] = b"\xff\xd9" + bytes(length - length // 2 - 2)
    with pytest.raises(UndecodablePictureError, match="broken"):
        read_picture(bytes(data), LIMIT)


def test_a_file_that_ends_within_its_strips_is_refused() -> None:
    data = FILES["rgb tiles"]
    offset, length = strips(data)[-1]
    with pytest.raises(UndecodablePictureError):
        read_picture(data[: offset + length // 2], LIMIT)


def test_a_strip_larger_than_its_picture_is_refused_before_it_is_decoded() -> None:
    data = bytearray(FILES["rgb tiles"])
    offset, _ = strips(FILES["rgb tiles"])[0]
    frame = data.index(b"\xff\xc0", offset)
    data[frame + 5 : frame + 9] = b"\x30\x00\x30\x00"
    with pytest.raises(UndecodablePictureError, match="more than the picture"):
        read_picture(bytes(data), LIMIT)
