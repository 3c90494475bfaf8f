"""Transparent pixels on white, as a viewer shows them: the colour under them is arbitrary."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
