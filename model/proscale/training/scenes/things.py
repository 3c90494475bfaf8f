"""Kinds of things: name -> outline and material. Classes differ in colour and pattern, not only in outline (notes in docs).

Every painter works in the thing's own frame: u to the right and v down, both about -1..1 across its box, after rotation.
"""

from collections.abc import Callable

import numpy as np

from proscale.training.scenes.texture import Array, colour, fractal_noise, mix, step

Painter = Callable[[np.random.Generator, Array, Array, float], tuple[Array, Array]]
"""(rng, u, v, pixels per unit) -> signed distance (h, w) in units, negative inside, and colours (h, w, 3)."""


def _box(u: Array, v: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(u) - np.float32(half_width), np.abs(v) - np.float32(half_height))


def _plain(u: Array, tone: Array) -> Array:
    return np.broadcast_to(tone, (*u.shape, 3)).astype(np.float32)


def ball(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Red and white stripes, shaded as a sphere."""
    radius = np.hypot(u, v)
    stripes = step(np.sin((u + 0.25 * v * v) * np.float32(rng.uniform(6, 9))), 8 / scale)
    tone = mix(colour(rng, (205, 35, 40)), colour(rng, (245, 240, 232), 6), stripes)
    shade = 1.05 - 0.45 * np.clip(np.hypot(u + 0.3, v + 0.35), 0, 1.4)
    return radius - np.float32(0.95), tone * shade[..., None]


def crate(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Brown planks with a frame and a diagonal."""
    grain = np.sin(v * 40 + 4 * np.sin(u * 3)) * 9
    gaps = step(np.float32(0.05) - np.abs((v * 2.5) % 1 - 0.5) / 2.5, 2 / scale)
    wood = _plain(u, colour(rng, (165, 112, 62))) + grain[..., None]
    wood = mix(wood, np.array([70, 42, 20], np.float32), gaps * 0.8)
    frame = np.maximum(step(np.maximum(np.abs(u), np.abs(v)) - np.float32(0.66), 2 / scale), step(0.12 - np.abs(u - v) / 1.4, 2 / scale))
    return _box(u, v, 0.88, 0.88), mix(wood, colour(rng, (205, 158, 100)), frame)


def leaf(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Bright green, pointed, with pale veins."""
    width = np.float32(rng.uniform(0.42, 0.55))
    outline = (np.abs(v) - width * np.clip(1 - u * u, 0, None)) * 0.8
    outline = np.maximum(outline, np.abs(u) - np.float32(0.97))
    middle = step(np.float32(0.035) - np.abs(v), 2 / scale)
    ribs = step(np.float32(0.12) - np.abs((u * 3.5 - np.abs(v) * 3) % 1 - 0.5), 8 / scale)
    tone = mix(_plain(u, colour(rng, (70, 190, 50))), colour(rng, (190, 235, 130)), np.maximum(middle, ribs * 0.7))
    return outline.astype(np.float32), tone


def brick(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Three rough orange-red stones in grey mortar."""
    row = np.floor((v + 0.62) / 0.42)
    across = ((u + 0.35 * (row % 2)) / 0.8) % 1
    upright = step(0.06 - np.minimum(across, 1 - across), 2 / scale)
    level = step(np.abs(((v + 0.62) / 0.42) % 1 - 0.5) - 0.42, 4 / scale)
    mortar = np.maximum(upright, level)
    rough = fractal_noise(rng, u.shape[0], u.shape[1], cells=9) * 26
    return _box(u, v, 0.96, 0.6), mix(_plain(u, colour(rng, (178, 82, 52))) + rough[..., None], colour(rng, (190, 186, 180)), mortar)


def coin(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Gold disc with a milled rim and a raised square."""
    radius = np.hypot(u, v)
    milling = step(np.sin(np.arctan2(v, u) * 26), 1) * (radius > 0.78)
    inner = step(np.float32(0.32) - np.maximum(np.abs(u), np.abs(v)), 2 / scale)
    gloss = 1 + 0.22 * np.sin(u * 2.2 + v * 2.2 + np.float32(rng.uniform(0, 6)))
    tone = mix(_plain(u, colour(rng, (226, 180, 58))), np.array([140, 98, 22], np.float32), np.maximum(milling, inner * 0.8))
    return radius - np.float32(0.92), tone * gloss[..., None]


def flower(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Pink or violet petals around a yellow heart."""
    petals = int(rng.integers(5, 8))
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    outline = radius - np.float32(0.72) - 0.24 * np.cos(angle * petals)
    bases = ((232, 110, 180), (160, 96, 214))
    tone = mix(_plain(u, colour(rng, bases[int(rng.integers(2))])), np.full(3, 250, np.float32), np.clip(0.5 - radius * 0.6, 0, 1))
    streaks = 1 - 0.2 * step(np.cos(angle * petals) * -1 - 0.5, 0.3)
    return outline * np.float32(0.7), mix(tone * streaks[..., None], colour(rng, (250, 210, 50)), step(0.26 - radius, 2 / scale))


def fish(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Orange with dark bands, a forked tail and an eye."""
    body = (np.hypot((u + 0.18) / 0.76, v / 0.48) - 1) * 0.5
    tail = np.maximum(np.abs(v) - (u - 0.3) * 0.75, np.maximum(u - 0.95 + 0.3 * (1 - np.abs(v) * 2), 0.3 - u))
    bands = step(np.sin((u - 0.1 * v * v) * np.float32(rng.uniform(8, 10))) - 0.3, 8 / scale)
    tone = mix(_plain(u, colour(rng, (246, 136, 24))), colour(rng, (38, 34, 52)), bands * 0.9)
    eye = np.hypot(u + 0.62, v + 0.1)
    tone = mix(tone, np.full(3, 250, np.float32), step(0.13 - eye, 2 / scale))
    return np.minimum(body, tail).astype(np.float32), mix(tone, np.zeros(3, np.float32), step(0.07 - eye, 2 / scale))


def star(rng: np.random.Generator, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Five-pointed, blue with white dots."""
    radius, sector = np.hypot(u, v), 2 * np.pi / 5
    angle = np.abs((np.arctan2(v, u) + np.pi / 2) % sector - sector / 2)
    outline = radius * np.cos(sector / 2 - angle) - 0.44 - 0.5 * np.clip(angle / (sector / 2) - 0.5, 0, 1) * radius
    pitch = np.float32(rng.uniform(0.24, 0.3))
    dots = step(np.float32(0.075) - np.hypot(u % pitch - pitch / 2, v % pitch - pitch / 2), 2 / scale)
    tone = mix(_plain(u, colour(rng, (38, 66, 190))), np.full(3, 245, np.float32), dots)
    return (outline * 0.8).astype(np.float32), tone


THINGS: dict[str, Painter] = {
    "ball": ball,
    "crate": crate,
    "leaf": leaf,
    "brick": brick,
    "coin": coin,
    "flower": flower,
    "fish": fish,
    "star": star,
}
