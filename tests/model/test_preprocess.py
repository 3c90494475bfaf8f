"""Sizes, normalisation and padding."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proscale.config import PreprocessConfig
from proscale.errors import ImageError
from proscale.preprocess import padded_size, preprocess, resize_image, resized_size

PUBLISHED = PreprocessConfig()


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((640, 480), (1067, 800), (1088, 800)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((1080, 1920), (750, 1333), (768, 1344)),
        ((1024, 1024), (800, 800), (800, 800)),
        ((1, 10_000), (1, 1333), (32, 1344)),
        ((1, 1), (800, 800), (800, 800)),
    ],
)
def test_published_sizes(size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> None:
    assert resized_size(*size, PUBLISHED) == resized
    assert padded_size(*resized, PUBLISHED) == padded


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_the_exact_ratio_rounded(height: int, width: int) -> None:
    scale = min(Fraction(800, min(height, width)), Fraction(1333, max(height, width)))
    for ours, exact in zip(resized_size(height, width, PUBLISHED), (height * scale, width * scale), strict=True):
        assert abs(ours - max(exact, 1)) <= Fraction(1, 2) + Fraction(1, 10**6)


def test_a_picture_is_resized_normalised_and_padded_with_zeros() -> None:
    config = PreprocessConfig(short_side=40, long_side=100, mean=(10, 20, 30), std=(2, 4, 5))
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    batch = preprocess([image], config)
    assert batch.shape == (1, 3, 64, 96)
    assert batch.dtype == torch.float32
    resized = np.asarray(Image.fromarray(image).resize((66, 40), Image.Resampling.BILINEAR)).astype(np.float32)
    expected = (resized - [10, 20, 30]) / [2, 4, 5]
    assert np.allclose(batch[0, :, :40, :66].permute(1, 2, 0), expected, atol=1e-5)
    assert not batch[:, :, 40:].any()
    assert not batch[:, :, :, 66:].any()


def test_pictures_of_one_padded_size_make_a_batch_and_others_do_not(picture: np.ndarray) -> None:
    config = PreprocessConfig(short_side=64, long_side=128)
    batch = preprocess([picture, picture[:-1]], config)
    assert torch.equal(batch[0], preprocess([picture], config)[0])
    with pytest.raises(ImageError, match="share a padded size"):
        preprocess([picture, picture.transpose(1, 0, 2)], config)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_arrays_that_are_no_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="RGB array"):
        preprocess([np.zeros(shape, np.uint8)], PUBLISHED)


def test_floating_point_pictures_are_refused() -> None:
    with pytest.raises(ImageError, match="float64"):
        preprocess([np.zeros((4, 4, 3))], PUBLISHED)


def test_resizing_to_the_same_size_changes_nothing(picture: np.ndarray) -> None:
    assert resize_image(picture, picture.shape[:2]) is picture
