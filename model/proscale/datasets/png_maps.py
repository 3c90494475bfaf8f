"""PNGs whose pixels are numbers: class maps and id maps. Pictures are never read here; `proscale.pictures` does that."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.errors import DataError

MAX_PIXELS = 400_000_000
"""Larger maps are refused before a pixel is decoded."""


def read_map(path: Path) -> NDArray[np.int32]:
    """One number per pixel: grey of 1 to 16 bits, palette entries (not their colours), or colours whose three parts are equal.

    Returns:
        (H, W) int32.

    Raises:
        DataError: the file is missing, damaged, or holds colours.
    """
    values = _pixels(path)
    if values.ndim == 2:
        return values.astype(np.int32)
    if (values[..., 0] != values[..., 1]).any() or (values[..., 0] != values[..., 2]).any():
        raise DataError(f"{path} holds colours, not class numbers; write it as grey or palette PNG with one class number per pixel")
    return values[..., 0].astype(np.int32)


def read_id_map(path: Path) -> NDArray[np.int32]:
    """COCO's panoptic coding: id = R + 256 G + 65536 B; grey and palette files are taken as they are.

    Returns:
        (H, W) int32.

    Raises:
        DataError: the file is missing or damaged.
    """
    values = _pixels(path)
    if values.ndim == 2:
        return values.astype(np.int32)
    wide = values[..., :3].astype(np.int32)
    ids: NDArray[np.int32] = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    return ids


def read_parts(path: Path) -> NDArray[np.int32]:
    """Three numbers per pixel, as ADE20K writes objects: (H, W, 3) int32.

    Raises:
        DataError: the file is missing or damaged, or has another number of channels.
    """
    values = _pixels(path)
    if values.ndim != 3:
        raise DataError(f"{path} has one number per pixel; three are expected. Copy the file again; a grey copy has lost them")
    return values[..., :3].astype(np.int32)


def _pixels(path: Path) -> NDArray[np.integer]:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path} has {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
            if image.format not in ("PNG", "TIFF", "BMP"):
                raise DataError(f"{path} is {image.format}, which changes numbers; maps must be PNG")
            values = np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a PNG of numbers: {error}") from error
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.ndim == 3 and values.shape[2] == 2:  # grey with alpha
        return values[..., 0]
    if not np.issubdtype(values.dtype, np.integer) or values.ndim not in (2, 3):
        raise DataError(f"{path} has pixels of {values.dtype}; maps hold whole numbers")
    return values
