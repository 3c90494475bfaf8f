"""Random views of a sample: scale, crop, turn, mirror, light and colour. All randomness comes from the generator passed in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.training.sample import Sample, compact


@dataclass(frozen=True)
class Augmentation:
    """Strengths."""

    scale: tuple[float, float] = (0.75, 1.5)
    """The picture's short side becomes the crop's side times a factor from this range (log-uniform)."""
    rotate: bool = True
    """Quarter turns. Right for microscopy; wrong where gravity tells sky from floor."""
    brightness: float = 0.25
    contrast: float = 0.3
    saturation: float = 0.3
    gamma: float = 0.3
    noise: float = 6.0
    """Largest standard deviation of added noise, on the 0-255 scale."""
    min_pixels: int = 6
    """Segments that keep fewer pixels than this in the view become void: they cannot be asked for."""
    mosaic: float = 0.0
    """Share of views that are put together of parts of four (see `mosaic.py`)."""


def resize_sample(sample: Sample, height: int, width: int) -> Sample:
    """Picture bilinear as in preprocessing, ids by nearest neighbour so that no id is invented."""
    if sample.ids.shape == (height, width):
        return sample
    image = np.asarray(Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR))
    rows = ((np.arange(height) + 0.5) * sample.ids.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * sample.ids.shape[1] / width).astype(np.int64)
    return Sample(image, sample.ids[rows[:, None], columns[None]], sample.classes, sample.crowd, sample.name)


def random_view(sample: Sample, size: int, rng: np.random.Generator, settings: Augmentation) -> tuple[Sample, tuple[int, int]]:
    """Scale, crop or pad to a square, turn and recolour.

    Args:
        sample: any size.
        size: side of the square, in pixels of the network's input.

    Returns:
        the view, (size, size), and the (height, width) of it that holds picture; the rest, right and bottom, is void padding.
    """
    height, width = sample.ids.shape
    low, high = np.log(settings.scale)
    scale = size * float(np.exp(rng.uniform(low, high))) / min(height, width)
    sample = resize_sample(sample, max(1, round(height * scale)), max(1, round(width * scale)))
    height, width = sample.ids.shape
    top, left = (int(rng.integers(0, max(extent - size, 0) + 1)) for extent in (height, width))
    image, ids = sample.image[top : top + size, left : left + size], sample.ids[top : top + size, left : left + size]
    if settings.rotate:
        turns = int(rng.integers(4))
        image, ids = np.rot90(image, turns), np.rot90(ids, turns)
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    image = recolour(image, rng, settings)
    height, width = ids.shape
    padded_image = np.zeros((size, size, 3), np.uint8)
    padded_ids = np.zeros((size, size), np.int32)
    padded_image[:height, :width], padded_ids[:height, :width] = image, ids
    view = Sample(padded_image, padded_ids, sample.classes, sample.crowd, sample.name)
    return compact(view, settings.min_pixels, drop_crowds=True), (height, width)


def recolour(image: NDArray[np.uint8], rng: np.random.Generator, settings: Augmentation) -> NDArray[np.uint8]:
    """Gamma, contrast, brightness, saturation and noise. Args and result: (H, W, 3) uint8."""
    gamma = float(np.exp(rng.uniform(-settings.gamma, settings.gamma)))
    contrast = 1 + rng.uniform(-settings.contrast, settings.contrast)
    brightness = 255 * rng.uniform(-settings.brightness, settings.brightness) * 0.5
    # One table for all of the tone: as good as per-pixel arithmetic on 8-bit input, and much quicker.
    tone = 255 * (np.arange(256) / 255) ** gamma
    tone = (tone - 128) * contrast + 128 + brightness
    pixels = tone.astype(np.float32)[image]
    saturation = 1 + rng.uniform(-settings.saturation, settings.saturation)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(saturation)
    if settings.noise > 0 and rng.random() < 0.5:
        sigma = np.float32(rng.uniform(0, settings.noise))
        pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * sigma
    recoloured: NDArray[np.uint8] = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return recoloured
