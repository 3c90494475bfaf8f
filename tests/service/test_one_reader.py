"""Training and evaluation read every kind of picture as the service does."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proscale.datasets import AnnotatedPicture, Dataset, PanopticMap, PanopticSegment
from proscale.evaluation.picture_reading import read_rgb
from proscale.labels import Category
from proscale.training.pictures import TrainingPictures
from proscale_service.images import read_picture

CATEGORIES = (Category(1, "ground", False),)
RNG = np.random.default_rng(0)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)), "JPEG", exif=exif)


def grey_of_16_bits() -> bytes:
    return saved(Image.fromarray(RNG.integers(0, 65536, (20, 30), np.uint16)), "PNG")


def transparent() -> bytes:
    return saved(Image.fromarray(RNG.integers(0, 256, (20, 30, 4), np.uint8), "RGBA"), "PNG")


def palette() -> bytes:
    return saved(Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).quantize(16), "PNG")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("made", [turned, grey_of_16_bits, transparent, palette])
def test_a_picture_is_the_same_to_all(tmp_path: Path, made) -> None:
    (tmp_path / "a").write_bytes(made())
    expected = read_picture((tmp_path / "a").read_bytes(), 10_000).rgb
    assert expected.std() > 20
    ids = np.ones(expected.shape[:2], np.int32)
    picture = AnnotatedPicture("a", 1, tmp_path / "a", None, lambda: PanopticMap(ids, (PanopticSegment(1, 1),)))
    np.testing.assert_array_equal(read_rgb(picture), expected)
    sample = TrainingPictures(Dataset("made up", tmp_path, "val", CATEGORIES, [picture]), CATEGORIES)[0]
    np.testing.assert_array_equal(sample.image, expected)
