"""Picture -> resized, padded picture: detectron2's rules for sizes and PIL's bilinear filter. No torch, so that a gateway can do it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.config import PreprocessConfig, SlideConfig
from proscale.errors import ImageError

MIN_SIDE = 32
"""Pixels: below, the last stage of a backbone of stride 32 would see nothing."""


@dataclass(frozen=True)
class ResizedPicture:
    """A picture as the network is to see it, and the size that its masks are to have."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    output_size: tuple[int, int]
    """(height, width) in pixels of the picture as it was given."""


def resized_size(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """Size after resizing: the short side to `short_side`, unless the long side would pass `long_side`; rounded half up.

    Then `align` may stretch both sides to multiples of `size_divisor`. A fixed `size` takes the place of all that.

    Args and result in pixels, (height, width). No side falls below 1, or `MIN_SIDE` where no padding follows.
    """
    if config.size is not None and config.resize:
        return config.size
    if not config.resize:
        return _multiples(height, width, config.size_divisor) if config.align == "stretch" else (height, width)
    by_rule = _cut_off if config.rounding == "transformers" else _to_nearest
    rounded = by_rule(height, width, config.short_side, config.long_side)
    if config.align == "stretch":
        return _multiples(*rounded, config.size_divisor)
    return rounded if config.align == "pad" else (max(MIN_SIDE, rounded[0]), max(MIN_SIDE, rounded[1]))


def _to_nearest(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) as detectron2 has it: both sides rounded half up."""
    scale = short_side / min(height, width)
    # The order of these operations decides the last bit, and with it the rounding: first the short side's scale, then the cap.
    new_height, new_width = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(new_height, new_width) > long_side:
        cap = long_side / max(new_height, new_width)
        new_height, new_width = new_height * cap, new_width * cap
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def _cut_off(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) as transformers' processors have it: the short side rounded where the long one caps it, the long side cut off."""
    short, long = min(height, width), max(height, width)
    capped = long / short * short_side > long_side
    wanted = long_side * short / long if capped else float(short_side)
    side = max(1, round(wanted))
    other = max(1, int(wanted * long / short)) if side != short else long
    return (side, other) if height <= width else (other, side)


def padded_size(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """Size after padding right and bottom: to `pad_to`, else to multiples of `size_divisor` where `align` is `pad`.

    Args: the resized (height, width).
    """
    if config.pad_to is not None:
        return config.pad_to
    return _multiples(height, width, config.size_divisor) if config.align == "pad" else (height, width)


def window_places(size: tuple[int, int], slide: SlideConfig) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Where the windows lie on a picture of `size` (height, width) pixels.

    Returns:
        (top, left) of every window, row by row; and their (height, width), which is the picture's where that is smaller.
    """
    axes = [
        _starts(length, crop, None if slide.stride is None else slide.stride[axis])
        for axis, (length, crop) in enumerate(zip(size, slide.crop, strict=True))
    ]
    places = [(top, left) for top in axes[0] for left in axes[1]]
    return places, (min(size[0], slide.crop[0]), min(size[1], slide.crop[1]))


def _starts(length: int, crop: int, stride: int | None) -> list[int]:
    """First pixels of the windows along one axis."""
    if stride is None:
        count = -(-length // crop)
        overlap = (count * crop - length) / (count - 1) if count > 1 else 0.0
        return [int(i * (crop - overlap)) for i in range(count)]
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride + crop, length) - crop, 0) for i in range(count)]


def _multiples(height: int, width: int, divisor: int) -> tuple[int, int]:
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def resize_image(image: NDArray[np.uint8], size: tuple[int, int], kernel: str = "bilinear") -> NDArray[np.uint8]:
    """PIL's resizing, anti-aliased when shrinking.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (height, width) in pixels.
        kernel: a filter of `PreprocessConfig.filter`.

    Returns: (h, w, 3) uint8.
    """
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling[kernel.upper()]))


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ImageError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(f"a picture must be an RGB array (height, width, 3) of uint8, not {image.shape} of {image.dtype}")


def resize_picture(image: NDArray[np.uint8], config: PreprocessConfig, size: tuple[int, int] | None = None) -> ResizedPicture:
    """A picture (H, W, 3), uint8 RGB, at the network's size.

    Args:
        size: (height, width) that was planned for it; None: as `resized_size` has it.

    Raises:
        ImageError: it has another form.
    """
    check_image(image)
    height, width = image.shape[:2]
    return ResizedPicture(resize_image(image, size or resized_size(height, width, config), config.filter), (height, width))


def pad_picture(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Zeros right and bottom. Args: image (h, w, 3) uint8, size (H, W) no smaller. Returns (H, W, 3) uint8."""
    padded = np.zeros((*size, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
