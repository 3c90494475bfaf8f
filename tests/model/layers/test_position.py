"""Sine positions against the formula, entry by entry."""

import math

import pytest

from proscale.layers.position import sine_position


def test_every_entry_equals_the_formula() -> None:
    height, width, dim = 3, 5, 8
    encoding = sine_position(height, width, dim).view(height, width, dim)
    for y in range(height):
        for x in range(width):
            for channel in range(dim):
                # Rows in the first half of the channels, columns in the second; sine and cosine share a frequency.
                position, length = (y, height) if channel < dim // 2 else (x, width)
                i = channel % (dim // 2)
                angle = (position + 1) / length * 2 * math.pi / 10_000 ** (2 * (i // 2) / (dim // 2))
                expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
                assert encoding[y, x, channel].item() == pytest.approx(expected, abs=1e-5)


def test_channels_must_split_into_sines_and_cosines_of_two_axes() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_position(2, 2, 6)
