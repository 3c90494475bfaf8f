"""What is known of a picture on its way from bytes to RGB."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say."""

    format: str
    """One of FORMATS; of a JPEG with further pictures behind it too: JPEG."""
    height: int
    """Pixels, after orientation."""
    width: int
    orientation: int
    """EXIF orientation 1..8; 1: as stored."""


@dataclass(frozen=True)
class DecodedPicture:
    """The pixels of a picture."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), C-contiguous, oriented, sRGB, alpha composited on white."""
    header: Header
    """As it is known after decoding, which may have made it better known."""
    warnings: tuple[str, ...] = ()
    """What the caller should know about the picture, one sentence each; most have none."""


@dataclass(frozen=True)
class Samples:
    """What a decoder gives: the samples as they are stored, not yet oriented."""

    pixels: NDArray[Any]
    """(H, W) grey, (H, W, 3) RGB, or (H, W, 4) CMYK with 0 for no ink; 0 is black, but in CMYK."""
    white: int | None = 255
    """The sample that means white; None where the format does not say (floats, signed and 32-bit integers)."""
    alpha: NDArray[np.uint8] | None = None
    """(H, W), 0 transparent, 255 opaque; None: all opaque. Colours are not multiplied with it."""
    profile: bytes | None = None
    """ICC profile of the colours; None: sRGB."""
    orientation: int = 1
    """EXIF orientation 1..8 that is still to be applied."""
    deep: bool = False
    """Whether the file has 16 bits per sample, also where `pixels` holds only the high 8 of them."""
