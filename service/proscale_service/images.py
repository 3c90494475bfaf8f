"""Reads pictures as `proscale.pictures` does, and raises the service's errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from proscale import pictures
from proscale.errors import EmptyPictureError, PictureSizeError, UndecodablePictureError
from proscale.pictures import FULL, DecodedPicture, Header, Intensity
from proscale_service.errors import MalformedRequest, TooManyPixels, UndecodableImage


class OpenedPicture:
    """A picture whose header was read. `decode` once, on any thread; `close` what is not decoded."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        """Read the header. Errors: see `read_header`."""
        with _as_service_errors():
            self._opened = pictures.OpenedPicture(data, max_pixels)

    @property
    def header(self) -> Header:
        """Format, oriented size and orientation."""
        return self._opened.header

    def close(self) -> None:
        """Give back what the decoder holds."""
        self._opened.close()

    def decode(self, intensity: Intensity = FULL) -> DecodedPicture:
        """The pixels, and the header as it is known then. Args: intensity: which samples become black and white.

        Raises:
            UndecodableImage: data that is cut off or broken, or pixels that have no meaning as RGB.
            TooManyPixels: more than the header promised.
        """
        with _as_service_errors():
            return self._opened.decode(intensity)


def read_header(data: bytes, max_pixels: int) -> Header:
    """Format and oriented size, without decoding; see `proscale.pictures.read_header`.

    Raises:
        MalformedRequest: no bytes at all.
        UndecodableImage: not a picture of a known format.
        TooManyPixels: more than `max_pixels`.
    """
    with _as_service_errors():
        return pictures.read_header(data, max_pixels)


def read_picture(data: bytes, max_pixels: int, intensity: Intensity = FULL) -> DecodedPicture:
    """A whole picture. Errors: as `OpenedPicture`."""
    return OpenedPicture(data, max_pixels).decode(intensity)


@contextmanager
def _as_service_errors() -> Iterator[None]:
    try:
        yield
    except EmptyPictureError as error:
        raise MalformedRequest(str(error)) from error
    except PictureSizeError as error:
        raise TooManyPixels(str(error)) from error
    except UndecodablePictureError as error:
        raise UndecodableImage(str(error)) from error
