"""Noise and patterns that the painter's materials are mixed from. All arrays are float32; colours are on the 0-255 scale."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.floating[Any]]


def noise(rng: np.random.Generator, height: int, width: int, cells: tuple[float, float]) -> Array:
    """Smooth noise.

    Args:
        height, width: in pixels.
        cells: how many bumps fit down and across.

    Returns:
        (height, width), about -1..1.
    """
    grid = rng.uniform(-1, 1, (max(2, round(cells[0])) + 1, max(2, round(cells[1])) + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def fractal_noise(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 3) -> Array:
    """Octaves of `noise`, each twice as fine and half as strong. Returns (height, width), about -1..1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        fine = cells * 2**octave
        total += noise(rng, height, width, (fine, fine * width / max(height, 1))) * np.float32(0.5**octave)
    return total / np.float32(1.75)


def grain(rng: np.random.Generator, height: int, width: int) -> Array:
    """White noise of unit deviation, (height, width)."""
    return rng.standard_normal((height, width), dtype=np.float32)


def mix(first: Array, second: Array, share: Array) -> Array:
    """(1 - share) x first + share x second. Args: colours broadcastable to (h, w, 3), share (h, w) in 0..1. Returns (h, w, 3)."""
    weight = np.clip(share, 0, 1)[..., None]
    mixed: Array = (first * (1 - weight) + second * weight).astype(np.float32)
    return mixed


def colour(rng: np.random.Generator, base: tuple[float, float, float], spread: float = 12) -> Array:
    """A colour near `base`, (3,)."""
    return (np.array(base) + rng.uniform(-spread, spread, 3)).astype(np.float32)


def step(value: Array, softness: float = 1.0) -> Array:
    """0 below zero, 1 above, a ramp of `softness` pixels between: edges without staircase."""
    ramp: Array = np.clip(value / np.float32(softness) + 0.5, 0, 1).astype(np.float32)
    return ramp
