"""PNGs of masks against Pillow, which reads them strictly: a checksum that is off is an error."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.model.formats.segmentations import segment

from proscale.formats.mask_png import mask_png


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    made = [rng.random(rng.integers(1, 40, 2)) < rng.random() for _ in range(150)]
    for box in ((0, 0, 9, 9), (13, 40, 3, 70), (299, 399, 1, 1), (5, 100, 290, 17)):
        mask = np.zeros((300, 400), bool)
        mask[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = rng.random((box[2], min(box[3], 400 - box[1]))) < 0.7
        made.append(mask)
    return [*made, np.zeros((7, 9), bool), np.ones((7, 9), bool), np.pad(np.ones((3, 3), bool), ((5000, 4000), (2000, 10)))]


@pytest.mark.parametrize("bits", [1, 8])
def test_pillow_reads_the_mask(bits: int) -> None:
    for mask in masks():
        with Image.open(io.BytesIO(mask_png(segment(1, mask), bits=bits))) as image:
            assert image.mode == ("1" if bits == 1 else "L")
            np.testing.assert_array_equal(np.asarray(image), mask if bits == 1 else mask * np.uint8(255))


def test_the_stream_is_whole() -> None:
    """Checksums included, which some readers skip; and what PNG says about chunks."""
    data = mask_png(segment(1, np.pad(np.ones((5, 6), bool), 200)))
    at, stream, kinds = 8, b"", []
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + content) == int.from_bytes(data[at + 8 + length : at + 12 + length], "big")
        stream += content if kind == b"IDAT" else b""
        kinds.append(kind)
        at += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert len(zlib.decompress(stream)) == 405 * (1 + 51)


def test_a_mask_in_a_huge_picture_is_small() -> None:
    huge = np.zeros((3000, 4000), bool)
    huge[1000:1010, 2000:2010] = True
    assert len(mask_png(segment(1, huge))) < 20_000
