"""Draw a scene: bands of stuff, things on top of each other, light and noise; and its exact panoptic truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.labels import Category
from proscale.training.sample import Sample, class_index
from proscale.training.scenes.stuff import STUFF
from proscale.training.scenes.texture import Array, fractal_noise, grain, noise
from proscale.training.scenes.things import THINGS

CATEGORIES: tuple[Category, ...] = tuple(Category(i + 1, name, name in THINGS) for i, name in enumerate([*THINGS, *STUFF]))
"""The painter's own label space."""


@dataclass(frozen=True)
class SceneConfig:
    things: tuple[int, int] = (2, 10)
    """How many things are tried, at least and at most."""
    radius: tuple[float, float] = (0.05, 0.24)
    """Half of a thing's box, as a share of the picture's side (log-uniform)."""
    regions: tuple[int, int] = (1, 3)
    """How many kinds of stuff."""
    min_visible: float = 0.3
    """A new thing may not leave less than this share of any earlier one to be seen."""


def paint_stuff(rng: np.random.Generator, size: int, config: SceneConfig) -> tuple[Array, NDArray[np.int32], list[str]]:
    """Fill the canvas with wavy bands of different stuff.

    Returns:
        canvas (size, size, 3), ids (size, size) from 1, and the name of every id.
    """
    count = int(rng.integers(config.regions[0], config.regions[1] + 1))
    names = [str(name) for name in rng.permutation(list(STUFF))[:count]]
    angle = rng.uniform(-0.5, 0.5) + (np.pi / 2 if rng.random() < 0.3 else 0)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    height = y * np.float32(np.cos(angle)) + x * np.float32(np.sin(angle)) + 0.5
    height = height + noise(rng, size, size, (3, 3)) * np.float32(rng.uniform(0.02, 0.12))
    borders = np.sort(rng.uniform(0.2, 0.8, count - 1))
    ids = (np.searchsorted(borders, height.ravel()) + 1).astype(np.int32).reshape(size, size)
    canvas = np.zeros((size, size, 3), np.float32)
    for i, name in enumerate(names):
        inside = ids == i + 1
        if inside.any():
            canvas[inside] = STUFF[name](rng, size, size)[inside]
    return canvas, ids, names


def paint_thing(
    rng: np.random.Generator, canvas: Array, ids: NDArray[np.int32], name: str, number: int, visible: dict[int, int], config: SceneConfig
) -> bool:
    """Try to draw one thing onto canvas and ids in place; False if it would hide an earlier one or fall outside.

    Args:
        number: the thing's id.
        visible: id -> pixels that a thing covered when it was drawn.
    """
    size = ids.shape[0]
    low, high = np.log(config.radius)
    radius = max(4.0, size * float(np.exp(rng.uniform(low, high))))
    centre_y, centre_x = rng.uniform(0.02 * size, 0.98 * size, 2)
    angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    top, left = (max(0, int(c - radius * 1.5)) for c in (centre_y, centre_x))
    bottom, right = (min(size, int(c + radius * 1.5) + 2) for c in (centre_y, centre_x))
    dy, dx = np.mgrid[top:bottom, left:right].astype(np.float32)
    dy, dx = (dy - np.float32(centre_y)) / np.float32(radius), (dx - np.float32(centre_x)) / np.float32(radius)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    distance, tone = THINGS[name](rng, dx * cosine + dy * sine, (dy * cosine - dx * sine) / np.float32(squash), radius)
    window = ids[top:bottom, left:right]
    inside = distance < 0
    if inside.sum() < 12:
        return False
    hidden = np.bincount(window[inside], minlength=number)
    for other, drawn in visible.items():
        if hidden[other] and (ids == other).sum() - hidden[other] < config.min_visible * drawn:
            return False
    patch = canvas[top:bottom, left:right]
    # A soft shadow just outside the outline, then the thing with an edge one pixel wide, centred on the true outline.
    shadow = np.clip(1 - distance * 6, 0, 1) * np.float32(0.3) * (distance > 0)
    patch *= (1 - shadow)[..., None]
    cover = np.clip(0.5 - distance * np.float32(radius), 0, 1)[..., None]
    patch[:] = patch * (1 - cover) + tone * cover
    window[inside] = number
    visible[number] = int(inside.sum())
    return True


def draw_scene(
    seed: int | Sequence[int], size: int, categories: Sequence[Category] = CATEGORIES, config: SceneConfig | None = None
) -> Sample:
    """Draw one scene; the same seed and size give the same scene, bit for bit.

    Args:
        seed: anything that numpy's `default_rng` takes.
        size: side of the square picture in pixels.
        categories: label space in which classes are numbered; it must hold every name of `CATEGORIES`.
    """
    config = config or SceneConfig()
    rng = np.random.default_rng(seed)
    canvas, ids, names = paint_stuff(rng, size, config)
    visible: dict[int, int] = {}
    for _ in range(int(rng.integers(config.things[0], config.things[1] + 1))):
        name = str(rng.choice(list(THINGS)))
        if paint_thing(rng, canvas, ids, name, len(names) + 1, visible, config):
            names.append(name)
    light = 1 + fractal_noise(rng, size, size, 1.5, octaves=1) * np.float32(rng.uniform(0, 0.3))
    canvas *= (light * np.float32(rng.uniform(0.75, 1.15)))[..., None]
    canvas += (grain(rng, size, size) * np.float32(rng.uniform(0, 6)))[..., None]
    image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    by_name = class_index(categories)
    # A region of stuff can be empty or wholly hidden: only what can be seen is truth.
    present = np.unique(ids)
    renumber = np.zeros(len(names) + 1, np.int32)
    renumber[present] = np.arange(1, len(present) + 1)
    classes = np.array([by_name[names[i - 1]] for i in present.tolist()], np.int64)
    return Sample(image, renumber[ids], classes, np.zeros(len(classes), np.bool_), f"scene {seed}")
