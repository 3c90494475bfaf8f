"""Transparent pixels on white, as a viewer shows them: the colour under them is arbitrary."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.pictures.records import Samples


def on_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Composite (H, W, 3) on white by (H, W) alpha."""
    if alpha is None:
        return rgb
    picture, mask = Image.fromarray(rgb), Image.fromarray(alpha)
    return np.asarray(Image.composite(picture, Image.new("RGB", picture.size, (255, 255, 255)), mask))


def meaningful(alpha: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """None for an alpha of zeros alone, which stands where a writer left the channel unused."""
    return alpha if alpha.any() else None


def opaque_unless(pixels: NDArray[Any], colour: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """Alpha (H, W): 0 where `pixels`, (H, W) or (H, W, 3), have exactly that colour, else 255."""
    same = pixels == colour if pixels.ndim == 2 else (pixels == np.asarray(colour)).all(axis=2)
    return np.where(same, np.uint8(0), np.uint8(255))


def transparent_outside(samples: Samples, box: tuple[int, int, int, int]) -> Samples:
    """Nothing is drawn outside of a frame that is smaller than its canvas: as browsers show it, in no background colour.

    Args:
        box: left, top, right, bottom of the frame in pixels.
    """
    height, width = samples.pixels.shape[:2]
    left, top, right, bottom = box
    if left <= 0 and top <= 0 and right >= width and bottom >= height:
        return samples
    inside = np.zeros((height, width), np.uint8)
    inside[max(top, 0) : bottom, max(left, 0) : right] = 255
    return replace(samples, alpha=inside if samples.alpha is None else np.minimum(samples.alpha, inside))
