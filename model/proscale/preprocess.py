"""Resized picture -> network input: normalisation and padding."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proscale.config import PreprocessConfig
from proscale.errors import ImageError
from proscale.geometry import ResizedPicture, padded_size


def normalise_and_pad(image: NDArray[np.uint8], size: tuple[int, int], config: PreprocessConfig) -> Tensor:
    """Subtract the mean, divide by the deviation, then pad with zeros right and bottom.

    Args:
        image: (h, w, 3) uint8 RGB, already resized.
        size: padded (H, W).

    Returns:
        (3, H, W) float32.
    """
    pixels = torch.tensor(image).permute(2, 0, 1).to(torch.float32)
    mean = torch.tensor(config.mean)[:, None, None]
    std = torch.tensor(config.std)[:, None, None]
    padded = torch.zeros(3, *size)
    padded[:, : pixels.shape[1], : pixels.shape[2]] = (pixels - mean) / std
    return padded


def preprocess(pictures: Sequence[ResizedPicture], config: PreprocessConfig) -> Tensor:
    """Resized pictures of one padded size -> a batch (B, 3, H, W) float32.

    Raises:
        ImageError: padded sizes differ.
    """
    sizes = {padded_size(picture.pixels.shape[0], picture.pixels.shape[1], config) for picture in pictures}
    if len(sizes) != 1:
        raise ImageError(f"pictures of one batch must share a padded size; these have {sorted(sizes)}")
    (size,) = sizes
    return torch.stack([normalise_and_pad(picture.pixels, size, config) for picture in pictures])
