"""Kinds of stuff: name -> painter of a textured canvas."""

from collections.abc import Callable

import numpy as np

from proscale.training.scenes.texture import Array, colour, fractal_noise, grain, mix, noise, step

Painter = Callable[[np.random.Generator, int, int], Array]
"""(rng, height, width) -> (height, width, 3) colours."""


def sky(rng: np.random.Generator, height: int, width: int) -> Array:
    """Blue, paler towards the horizon, with clouds."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    blue = mix(colour(rng, (80, 140, 215)), colour(rng, (165, 200, 235)), down)
    clouds = step(fractal_noise(rng, height, width, rng.uniform(2, 4)) - np.float32(rng.uniform(0.0, 0.4)), 0.4)
    return mix(blue, colour(rng, (240, 242, 245), 6), clouds * np.float32(0.8))


def grass(rng: np.random.Generator, height: int, width: int) -> Array:
    """Green with upright blades."""
    blades = noise(rng, height, width, (height / 12, width / 2.5))
    patches = fractal_noise(rng, height, width, 4)
    base = mix(colour(rng, (52, 110, 38)), colour(rng, (120, 165, 60)), patches * 0.5 + 0.5)
    return base + (blades * 32)[..., None] * np.array([0.8, 1, 0.5], np.float32)


def sand(rng: np.random.Generator, height: int, width: int) -> Array:
    """Tan with fine grain and wind ripples."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bend = fractal_noise(rng, height, width, 2) * 12
    ripples = np.sin((y + x * np.float32(rng.uniform(-0.4, 0.4)) + bend) * np.float32(2 * np.pi / rng.uniform(10, 20)))
    tone = ripples * 9 + grain(rng, height, width) * 9
    painted: Array = colour(rng, (214, 186, 130)) + tone[..., None] * np.ones(3, np.float32)
    return painted


def water(rng: np.random.Generator, height: int, width: int) -> Array:
    """Teal with crossing waves and glints."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bend = fractal_noise(rng, height, width, 3) * 10
    length = np.float32(rng.uniform(9, 18))
    waves = np.sin((y + bend) * (2 * np.pi / length)) + 0.5 * np.sin((y * 1.7 + x * 0.6 - bend) * (2 * np.pi / length))
    base = mix(colour(rng, (18, 78, 98)), colour(rng, (52, 142, 150)), waves * 0.3 + 0.5)
    return mix(base, np.full(3, 235, np.float32), step(waves - 1.25, 0.3) * 0.7)


def wall(rng: np.random.Generator, height: int, width: int) -> Array:
    """Pale plaster tiles with dark joints."""
    tile = rng.uniform(22, 44)
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(rng.uniform(0, tile))
    edge = np.minimum(np.abs((y % tile) - tile / 2), np.abs((x % tile) - tile / 2))
    joint = step(np.maximum(np.abs((y % tile) - tile / 2), np.abs((x % tile) - tile / 2)) - np.float32(tile / 2 - 1.5), 1)
    tone = fractal_noise(rng, height, width, 5) * 9 + edge * 0.1
    base = colour(rng, (205, 196, 205)) + tone[..., None] * np.ones(3, np.float32)
    return mix(base, colour(rng, (120, 112, 122)), joint)


def road(rng: np.random.Generator, height: int, width: int) -> Array:
    """Dark asphalt with coarse grain."""
    speckle = noise(rng, height, width, (height / 3, width / 3)) * 16 + grain(rng, height, width) * 8
    return colour(rng, (70, 70, 76)) + (speckle + fractal_noise(rng, height, width, 3) * 8)[..., None] * np.ones(3, np.float32)


STUFF: dict[str, Painter] = {"sky": sky, "grass": grass, "sand": sand, "water": water, "wall": wall, "road": road}
