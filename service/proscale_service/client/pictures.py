"""What the client takes for a picture, and the file's bytes it sends for it."""

import io
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading bytes, or anything like it: io.BytesIO, an upload, a response's body."""

    def read(self) -> bytes:
        """All bytes from the current position on."""


@dataclass(frozen=True)
class FetchedByServer:
    """A picture that the server itself shall fetch, where it is set up to (`PROSCALE_PICTURE_URLS`)."""

    url: str


Picture = str | PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | NDArray[np.uint8] | FetchedByServer

MAX_FETCHED_BYTES = 256 * 2**20
FETCH_TIMEOUT_S = 30.0
_URL_SCHEMES = ("http://", "https://")
TAKEN = "a path, a URL, a file's bytes, a file opened with 'rb', a PIL image, or a numpy array of uint8"
_SHAPES = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
_OF_PNG = {"1", "L", "LA", "P", "RGB", "RGBA"}
_NEAREST = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
_NO_RANGE = {"I", "F"}


def picture_bytes(picture: Picture) -> bytes:
    """The bytes of a picture file; arrays and PIL images become PNG, their pixels as they are (masks fit them, not some EXIF turn).

    Args:
        picture: path of a file, a URL of http or https, a file's bytes, an open binary file (read from its position on), a PIL image, or
            an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8.

    Raises:
        TypeError: none of these, or an array of another dtype.
        ValueError: an array or image that is no picture, or a file with nothing left to read.
        OSError: the file cannot be read, or the URL gives none.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        return _png(_image_of(picture))
    if isinstance(picture, Image.Image):
        return _png(_for_png(picture))
    if isinstance(picture, str) and picture.lower().startswith(_URL_SCHEMES):
        return _fetch(picture)
    if isinstance(picture, str | PathLike):
        return Path(picture).read_bytes()
    if isinstance(picture, BinaryFile):
        return _read(picture)
    hint = "; a torch tensor becomes one with .cpu().numpy()" if type(picture).__module__.partition(".")[0] == "torch" else ""
    raise TypeError(f"a picture must be {TAKEN}, not {type(picture).__name__}{hint}")


def _fetch(url: str) -> bytes:
    """What is at a URL; nothing of the client's connection to the service, its API key least of all, goes there."""
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=FETCH_TIMEOUT_S) as response:
            if not response.is_success:
                raise OSError(f"{url} cannot be fetched: HTTP status {response.status_code}")
            data = bytearray()
            for part in response.iter_bytes():
                data += part
                if len(data) > MAX_FETCHED_BYTES:
                    raise OSError(f"{url} has more than {MAX_FETCHED_BYTES} bytes")
            return bytes(data)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(f"{url} cannot be fetched: {error}") from error


def _image_of(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(f"an array must be of uint8, 0..255, not {array.dtype}; scale its values to that range and convert it")
    squeezed = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if squeezed.ndim != 2 and not (squeezed.ndim == 3 and squeezed.shape[2] in (3, 4)):
        hint = "; channels come last: transpose it" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        hint = hint or ("; send one picture at a time" if array.ndim == 4 else "")
        raise ValueError(f"an array must be {_SHAPES}, not {array.shape}{hint}")
    if 0 in array.shape:
        raise ValueError(f"the array has no pixels: its shape is {array.shape}")
    return Image.fromarray(np.ascontiguousarray(squeezed))


def _for_png(image: Image.Image) -> Image.Image:
    if image.mode in _NO_RANGE:
        raise ValueError(f"a PIL image of mode {image.mode!r} has no value that means white; convert it to 'L' or 'RGB'")
    if image.width < 1 or image.height < 1:
        raise ValueError(f"the image has no pixels: it is {image.width}x{image.height}")
    if image.mode.startswith("I;16"):
        return image if image.mode == "I;16" else image.convert("I").convert("I;16")
    return image if image.mode in _OF_PNG else image.convert(_NEAREST.get(image.mode, "RGB"))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Fast rather than small: the wire is mostly local, and level 6 costs more than the saved bytes.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _read(file: BinaryFile) -> bytes:
    data = file.read()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"the file gives {type(data).__name__}, not bytes; open it with 'rb'")
    if not data:
        raise ValueError("the file has nothing left to read; if it was just written or read, call seek(0) before")
    return bytes(data)
