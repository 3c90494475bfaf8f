"""PNGs of pictures and maps against Pillow, which reads them strictly."""

import io

import numpy as np
import pytest
from PIL import Image

from proscale.formats import png as module
from proscale.formats.png import png

RNG = np.random.default_rng(12)
SHAPES = ((1, 1), (1, 9), (9, 1), (40, 70))


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image)


@pytest.mark.parametrize("at_once", [1, 500, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_pillow_reads_the_pixels(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], at_once: int) -> None:
    monkeypatch.setattr(module, "_BYTES_AT_ONCE", at_once)
    picture = RNG.integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(read(png(picture)), picture)
    np.testing.assert_array_equal(read(png(picture[::-1])), picture[::-1])
    ids = RNG.integers(0, 1 << 16, shape).astype(np.uint16)
    np.testing.assert_array_equal(read(png(ids)), ids)


def test_maps_and_pictures_are_hardly_larger_than_pillows() -> None:
    smooth = np.add.outer(np.arange(300), np.arange(400))[..., None] // (3, 4, 5) % 256
    for pixels in (np.kron(RNG.integers(0, 9, (6, 8)), np.ones((50, 50), int)).astype(np.uint16), smooth.astype(np.uint8)):
        stored = io.BytesIO()
        Image.fromarray(pixels).save(stored, "PNG", compress_level=1)
        assert len(png(pixels)) < 1.5 * len(stored.getvalue()) + 1000


def test_other_arrays_are_refused() -> None:
    for pixels in (np.zeros((3, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 3), np.uint16)):
        with pytest.raises(ValueError, match="neither RGB nor a map"):
            png(pixels)
