"""Sizes, resizing and padding, without torch."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale.config import PreprocessConfig
from proscale.errors import ImageError
from proscale.geometry import pad_picture, padded_size, resize_image, resize_picture, resized_size

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
def test_sizes_equal_the_published_ones(size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> None:
    assert resized_size(*size, PUBLISHED) == resized
    assert padded_size(*resized, PUBLISHED) == padded


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_the_exact_ratio_rounded(height: int, width: int) -> None:
    scale = min(Fraction(800, min(height, width)), Fraction(1333, max(height, width)))
    for ours, exact in zip(resized_size(height, width, PUBLISHED), (height * scale, width * scale), strict=True):
        assert abs(ours - max(exact, 1)) <= Fraction(1, 2) + Fraction(1, 10**6)  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_arrays_that_are_no_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="RGB array"):
        resize_picture(np.zeros(shape, np.uint8), PUBLISHED)


def test_floating_point_pictures_are_refused() -> None:
    with pytest.raises(ImageError, match="float64"):
        resize_picture(np.zeros((4, 4, 3)), PUBLISHED)


def test_padding_is_zeros_right_and_bottom(picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    padded = pad_picture(picture, (height + 3, width + 5))
    assert padded.shape == (height + 3, width + 5, 3)
    assert np.array_equal(padded[:height, :width], picture)
    assert not padded[height:].any()
    assert not padded[:, width:].any()


def test_resizing_to_the_same_size_changes_nothing(picture: np.ndarray) -> None:
    assert resize_image(picture, picture.shape[:2]) is picture
