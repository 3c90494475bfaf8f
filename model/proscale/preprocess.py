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
    """Subtract the mean, divide by the deviation, and pad right and bottom: with zeros afterwards, or with black pixels before.

    Args:
        image: (h, w, 3) uint8 RGB, already resized.
        size: padded (H, W).

    Returns:
        (3, H, W) float32.
    """
    height, width, _ = image.shape
    padded = torch.empty(3, *size)
    padded[:, height:] = padded[:, :, width:] = _padding(config)
    # torch warns about arrays that it must not write to, such as those of PIL pictures, though it only reads here.
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
    normalised = padded[:, :height, :width].copy_(pixels)
    normalised.sub_(torch.tensor(config.mean)[:, None, None]).div_(torch.tensor(config.std)[:, None, None])
    return padded


def preprocess(pictures: Sequence[ResizedPicture], config: PreprocessConfig) -> Tensor:
    """Resized pictures of one padded size -> a batch (B, 3, H, W) float32.

    Raises:
        ImageError: padded sizes differ.
    """
    size = shared_size(pictures, config)
    return torch.stack([normalise_and_pad(picture.pixels, size, config) for picture in pictures])


def preprocess_on(pictures: Sequence[ResizedPicture], config: PreprocessConfig, device: torch.device) -> Tensor:
    """`preprocess` for a GPU: a quarter of the bytes cross, from pinned memory, and normalisation runs there.

    Raises:
        ImageError: padded sizes differ.
    """
    size = shared_size(pictures, config)
    pixels = torch.empty(len(pictures), *size, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for i, picture in enumerate(pictures):
        height, width, _ = picture.pixels.shape
        pixels.numpy()[i, :height, :width] = picture.pixels
    batch = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    batch.sub_(torch.tensor(config.mean).to(device)[:, None, None]).div_(torch.tensor(config.std).to(device)[:, None, None])
    padding = _padding(config).to(device)
    for i, picture in enumerate(pictures):
        height, width, _ = picture.pixels.shape
        batch[i, :, height:] = batch[i, :, :, width:] = padding
    return batch


def _padding(config: PreprocessConfig) -> Tensor:
    """(3, 1, 1): what padding is in the network's input."""
    zero = torch.zeros(3, 1, 1)
    if config.padding == "mean":
        return zero
    return zero.sub_(torch.tensor(config.mean)[:, None, None]).div_(torch.tensor(config.std)[:, None, None])


def shared_size(pictures: Sequence[ResizedPicture], config: PreprocessConfig) -> tuple[int, int]:
    """(H, W) that all of them are padded to. Raises ImageError: padded sizes differ."""
    sizes = {padded_size(picture.pixels.shape[0], picture.pixels.shape[1], config) for picture in pictures}
    if len(sizes) != 1:
        raise ImageError(f"pictures of one batch must share a padded size; these have {sorted(sizes)}")
    return sizes.pop()
