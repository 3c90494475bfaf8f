"""Bytes -> RGB array: format sniffed, size checked before any pixel is decoded, orientation applied, every mode made RGB.

What becomes of the kinds of pictures:
- EXIF orientation is applied, and told as `orientation_applied`; masks have the oriented size.
- Palette, greyscale, 1-bit and CMYK pictures are converted.
- Alpha (also palette transparency) is composited on white, as a viewer shows it: the colour under transparent pixels is arbitrary.
- 16-bit greyscale is scaled from 0..65535 to 0..255; 16-bit colour loses its low byte.
- 32-bit integers and floats have no range that means white: 422.
- Of animations and multi-page files the first frame is taken.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from proscale.errors import EmptyPictureError, PictureError, PictureSizeError, UndecodablePictureError
from proscale.pictures.bounds import check_single, webp_size

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Pillow's names of what is tried. Short on purpose: every decoder is attack surface."""

# Pillow would warn at 89 megapixels and raise at twice that; the check below is stricter and raises this package's error.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {5, 6, 7, 8}
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_NO_RANGE = {"I": "32-bit integer", "F": "floating point"}


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say."""

    format: str
    """One of FORMATS, or MPO (a JPEG with further pictures behind it)."""
    height: int
    """Pixels, after orientation."""
    width: int
    orientation: int
    """EXIF orientation 1..8; 1: as stored."""


@dataclass(frozen=True)
class DecodedPicture:
    """The pixels of a picture."""

    rgb: NDArray[np.uint8]
    """(H, W, 3), C-contiguous, oriented, alpha composited on white."""
    header: Header
    """As it is known after decoding, which may have made it better known."""
    warnings: tuple[str, ...] = ()
    """What the caller should know about the picture, one sentence each; most have none."""


class OpenedPicture:
    """A picture whose header was read. `decode` once, on any thread; `close` what is not decoded."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        """Read the header. Errors: see `read_header`."""
        self._data, self._max_pixels = data, max_pixels
        try:
            self._image = _open(data, max_pixels)
            self.header = _header(self._image)
        except PictureError:
            raise
        except Exception as error:
            raise UndecodablePictureError(f"the picture's header cannot be read: {_text(error)}") from error

    def close(self) -> None:
        """Give back what the decoder holds."""
        self._image.close()

    def decode(self) -> DecodedPicture:
        """The pixels, and the header as it is known then.

        Raises:
            UndecodablePictureError: data that is cut off or broken, or pixels that have no meaning as RGB.
            PictureSizeError: more than the header promised.
        """
        try:
            with self._image as image:
                return self._decode(image)
        except PictureError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            # Decoders meet broken data with whatever comes first: OSError, SyntaxError, struct.error, ValueError, EOFError ...
            raise UndecodablePictureError(f"the picture is broken or cut off: {_text(error)}") from error

    def _decode(self, image: Image.Image) -> DecodedPicture:
        check_single(self._data, image.format or "")
        if image.mode in _NO_RANGE:
            raise UndecodablePictureError(f"{_NO_RANGE[image.mode]} pixels have no fixed range; convert to 8 or 16 bits per channel")
        image.load()
        if image.format == "TIFF":  # Pillow turns these itself while loading
            header = Header("TIFF", image.height, image.width, self.header.orientation)
            oriented: Image.Image = image
        else:
            header = _header(image)
            oriented = image.transpose(_TRANSPOSE[header.orientation]) if header.orientation in _TRANSPOSE else image
        # A frame may turn out larger than its file's header promised.
        _check_pixels(oriented.height, oriented.width, self._max_pixels)
        return DecodedPicture(np.ascontiguousarray(_to_rgb(oriented)), header)


def read_header(data: bytes, max_pixels: int) -> Header:
    """Format and oriented size, without decoding; works on the first kilobytes of a file too (of TIFF and WebP, the whole).

    Raises:
        EmptyPictureError: no bytes at all.
        UndecodablePictureError: not a picture of a known format.
        PictureSizeError: more than `max_pixels`.
    """
    picture = OpenedPicture(data, max_pixels)
    picture.close()
    return picture.header


def read_picture(data: bytes, max_pixels: int) -> DecodedPicture:
    """A whole picture. Result and errors: as `OpenedPicture`."""
    return OpenedPicture(data, max_pixels).decode()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise EmptyPictureError("the picture is empty (0 bytes)")
    if (size := webp_size(data)) is not None:
        _check_pixels(*size, max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UndecodablePictureError(f"the data is not a picture in one of the formats {', '.join(FORMATS)}") from error
    _check_pixels(image.height, image.width, max_pixels)
    return image


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise UndecodablePictureError(f"the picture has no pixels: it is {width}x{height}")
    if height * width > max_pixels:
        raise PictureSizeError(f"the picture has {width}x{height} = {height * width} pixels, more than the {max_pixels} taken here")


def _header(image: Image.Image) -> Header:
    orientation = _orientation(image)
    height, width = image.height, image.width
    # Pillow states TIFF sizes already turned, those of all other formats as stored.
    if orientation in _SWAPS_SIDES and image.format != "TIFF":
        height, width = width, height
    return Header(image.format or "", height, width, orientation)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 where there is none, it is out of range, or its block is broken: pixels matter more than metadata."""
    # Pillow decodes a whole PNG to look for EXIF behind the pixels. Before loading, what stands in front must do.
    if image.format == "PNG" and "exif" not in image.info and getattr(image, "png", None) is not None:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> Image.Image | NDArray[np.uint8]:
    """Any mode -> RGB; ValueError from Pillow when there is no way (LAB)."""
    if image.mode in _SIXTEEN_BIT:
        # 65535 / 255 = 257. Half is added so that the result is the nearest, as for the other conversions.
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in {"LA", "PA", "La", "RGBA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGB", rgba.size, (255, 255, 255))
        background.paste(rgba, mask=rgba.getchannel("A"))
        return background
    return image if image.mode == "RGB" else image.convert("RGB")


def _text(error: Exception) -> str:
    """What a decoder said, without memory addresses and file objects."""
    text = str(error)
    return type(error).__name__ if not text or "object at 0x" in text else text
