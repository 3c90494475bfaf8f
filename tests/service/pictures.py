"""Pictures for tests, made here so that what they hold is known."""

import io
import struct
import time
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from proscale.results import SegmentationOptions
from proscale_service.engines.backlog import Admitted, Backlog
from proscale_service.engines.base import Picture


def gradient(height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 that differs under every flip and rotation."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1), (rows + 2 * columns) % 256], axis=2).astype(
        np.uint8
    )


def blob(height: int = 64, width: int = 96, box: tuple[int, int, int, int] = (10, 20, 30, 25)) -> NDArray[np.uint8]:
    """A bright rectangle (x, y, w, h) on black."""
    picture = np.zeros((height, width, 3), np.uint8)
    x, y, w, h = box
    picture[y : y + h, x : x + w] = 250
    return picture


def encoded(picture: NDArray[Any] | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def coco_mask(rle: Any) -> NDArray[np.bool_]:
    """What pycocotools makes of an answer's mask: (H, W) bool."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, about pycocotools
        decoded: NDArray[np.bool_] = coco.decode(rle).astype(bool)
    return decoded


def exif(orientation: int) -> Image.Exif:
    """An EXIF block that says only how to turn the picture."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def stored_for(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What a camera stores so that `orientation` turns it into `upright`: by the EXIF table, in numpy, apart from Pillow."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(turned[orientation])


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """A PNG that promises so many pixels and holds a few bytes of them."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
            (b"IDAT", zlib.compress(bytes(2_000_000))),
            (b"IEND", b""),
        ]
    )


def prepared(planner: Any, image: np.ndarray) -> Picture:
    """A picture as the pipeline hands it to an engine. Args: planner: resizes and plans."""
    height, width = image.shape[:2]
    return Picture(planner.resize(image), SegmentationOptions(), planner.plan(height, width, ("panoptic",)), 0.0, lambda: image)


def promised(backlog: Backlog, picture: Picture, seconds: float = 60.0, priority: str = "normal") -> Admitted:
    """A place in the backlog, whatever is expected of it, read already. Args: seconds: from now to the deadline."""
    now = time.monotonic()
    promise = Admitted(picture.work, now + seconds, priority, backlog.costs, now, expected_s=seconds)
    backlog._queue.admitted[promise] = None
    return promise
