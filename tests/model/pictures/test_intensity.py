import re

import numpy as np
import pytest
from tests.service.pictures import encoded, gradient

from proscale.errors import ParameterError
from proscale.pictures import INTENSITY_PATTERN, Intensity, parse_intensity, read_picture


def test_every_intensity_is_parsed() -> None:
    assert [parse_intensity(text).kind for text in ("full", " MinMax", "percentile")] == ["full", "minmax", "percentile"]
    assert parse_intensity("0,4095") == Intensity("range", 0, 4095)
    assert parse_intensity("-1.5, 2e3") == Intensity("range", -1.5, 2000)


@pytest.mark.parametrize("text", ["", "auto", "5", "1,2,3", "nan,1", "0,inf"])
def test_invalid_intensities_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="intensity: should be full, minmax, percentile or LOW,HIGH "):
        parse_intensity(text)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_ordinary_pictures_can_be_stretched_too(form: str) -> None:
    dim = (gradient() // 4 + 20).astype(np.uint8)
    data = encoded(dim, form)
    stored = read_picture(data, 10_000).rgb.astype(float)
    expected = np.floor((stored - stored.min()) / (stored.max() - stored.min()) * 255 + 0.5)
    assert np.abs(read_picture(data, 10_000, parse_intensity("minmax")).rgb - expected).max() <= 1


def test_a_picture_of_one_value_is_black_not_an_error() -> None:
    assert read_picture(encoded(np.full((4, 4, 3), 7, np.uint8)), 100, parse_intensity("minmax")).rgb.max() == 0


def test_a_range_from_high_to_low_makes_a_negative() -> None:
    np.testing.assert_array_equal(read_picture(encoded(gradient()), 10_000, parse_intensity("255,0")).rgb, 255 - gradient())


def test_the_schemas_pattern_agrees_with_the_parser() -> None:
    for text in ("full", "minmax", "percentile", "0,4095", "-1.5,2.25", "3,3", "9,1"):
        assert re.match(INTENSITY_PATTERN, text)
        assert parse_intensity(text)
    for text in ("auto", "1", "1,2,3", "nan,1", "1e400,2", ""):
        assert not re.match(INTENSITY_PATTERN, text)
