"""Picture -> network input: detectron2's rules for sizes, PIL's bilinear filter, normalisation, padding."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from proscale.config import PreprocessConfig
from proscale.errors import ImageError


def resized_size(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """Size after resizing: the short side to `short_side`, unless the long side would pass `long_side`; rounded half up.

    Args and result in pixels, (height, width). No side falls below 1.
    """
    scale = config.short_side / min(height, width)
    # The order of these operations decides the last bit, and with it the rounding: first the short side's scale, then the cap.
    new_height, new_width = (config.short_side, scale * width) if height < width else (scale * height, config.short_side)
    if max(new_height, new_width) > config.long_side:
        cap = config.long_side / max(new_height, new_width)
        new_height, new_width = new_height * cap, new_width * cap
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def padded_size(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """Size after zero-padding right and bottom to multiples of `size_divisor`. Args: the resized (height, width)."""
    divisor = config.size_divisor
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """PIL bilinear (anti-aliased when shrinking). Args: image (H, W, 3) uint8 RGB, size (height, width). Returns (h, w, 3) uint8."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def normalise_and_pad(image: NDArray[np.uint8], size: tuple[int, int], config: PreprocessConfig) -> Tensor:
    """Subtract the mean, divide by the deviation, then pad with zeros right and bottom.

    Args:
        image: (h, w, 3) uint8 RGB, already resized.
        size: padded (H, W).

    Returns:
        (3, H, W) float32.
    """
    height, width, _ = image.shape
    padded = torch.zeros(3, *size)
    # torch warns about arrays that it must not write to, such as those of PIL pictures, though it only reads here.
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
    normalised = padded[:, :height, :width].copy_(pixels)
    normalised.sub_(torch.tensor(config.mean)[:, None, None]).div_(torch.tensor(config.std)[:, None, None])
    return padded


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ImageError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(f"a picture must be an RGB array (height, width, 3) of uint8, not {image.shape} of {image.dtype}")


def preprocess(images: Sequence[NDArray[np.uint8]], config: PreprocessConfig) -> Tensor:
    """Pictures of one padded size -> a batch.

    Args:
        images: (H, W, 3) uint8 RGB each, of any size, as long as their padded sizes are equal.

    Returns:
        (B, 3, H, W) float32.

    Raises:
        ImageError: a picture has the wrong form, or padded sizes differ.
    """
    batch, sizes = [], set()
    for image in images:
        check_image(image)
        resized = resized_size(image.shape[0], image.shape[1], config)
        padded = padded_size(*resized, config)
        sizes.add(padded)
        batch.append(normalise_and_pad(resize_image(image, resized), padded, config))
    if len(sizes) != 1:
        raise ImageError(f"pictures of one batch must share a padded size; these have {sorted(sizes)}")
    return torch.stack(batch)
