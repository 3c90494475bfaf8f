"""Bytes -> RGB array: format sniffed, size checked before any pixel is decoded, all kinds of samples made upright sRGB.

docs/http.md says what becomes of every kind of picture.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from proscale.errors import EmptyPictureError, PictureError, UndecodablePictureError
from proscale.pictures import behind, bmp, bounds, jpeg, png, tiff, tiff_pages, tiff_strips
from proscale.pictures.colour import to_srgb
from proscale.pictures.cut_header import more_of_header
from proscale.pictures.formats import FORMATS, require, sniff
from proscale.pictures.intensity import FULL, Intensity, intensity_warnings, to_eight_bits
from proscale.pictures.orientation import SWAPS_SIDES, orientation_of, oriented
from proscale.pictures.records import DecodedPicture, Header, Samples
from proscale.pictures.tiff_planes import PlanesTiff
from proscale.pictures.transparency import on_white, transparent_outside

# Pillow would warn at 89 megapixels and raise at twice that; the check here is stricter and raises this package's error.
Image.MAX_IMAGE_PIXELS = None


class OpenedPicture:
    """A picture whose header was read. `decode` once, on any thread; `close` what is not decoded."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        """Read the header. Errors: see `read_header`."""
        self._data, self._max_pixels = data, max_pixels
        self._png: png.Png | None = None
        self._page: tiff_pages.Page | None = None
        self._undecoded: PlanesTiff | bmp.PixelsBmp | None = None
        """What Pillow does not decode."""
        self._segments: jpeg.Segments | None = None
        try:
            self._form, self._image = self._open()
            self.header = self._header()
        except PictureError:
            raise
        except Exception as error:
            missing = f"; {wanted}" if (wanted := more_of_header(data)) else ""
            raise UndecodablePictureError(f"the picture's header cannot be read: {_text(error)}{missing}") from error

    def close(self) -> None:
        """Give back what the decoder holds."""
        self._image.close()

    def decode(self, intensity: Intensity = FULL) -> DecodedPicture:
        """The pixels, and the header as it is known then.

        Args:
            intensity: which samples become black and white.

        Raises:
            UndecodablePictureError: data that is cut off or broken, or pixels that have no meaning as RGB.
            PictureSizeError: more than the header promised.
        """
        try:
            with self._image:
                self._check_single()
                samples = self._samples(intensity)
        except (PictureError, MemoryError):
            raise
        except Exception as error:
            # Decoders meet broken data with whatever comes first: OSError, SyntaxError, struct.error, ValueError, EOFError ...
            raise UndecodablePictureError(f"the picture is broken or cut off: {_text(error)}") from error
        # A frame may turn out larger than its file's header promised.
        bounds.check_size(samples.pixels.shape[0], samples.pixels.shape[1], self._max_pixels)
        warnings = intensity_warnings(samples, intensity)
        rgb = on_white(to_srgb(to_eight_bits(samples, intensity), samples.profile), samples.alpha)
        if samples.alpha is not None and not samples.alpha.any():
            warnings += ("every pixel of the picture is transparent, so it is all white",)
        upright = oriented(rgb, samples.orientation)
        turned = samples.orientation if self._form != "TIFF" else self.header.orientation
        return DecodedPicture(upright, Header(self._form, upright.shape[0], upright.shape[1], turned), warnings)

    def _open(self) -> tuple[str, Image.Image | PlanesTiff | bmp.PixelsBmp]:
        """The format, and what Pillow, or else tifffile or `bmp`, makes of the file's header."""
        data = self._data
        if not data:
            raise EmptyPictureError("the picture is empty (0 bytes)")
        form = sniff(data)
        if form is None:
            raise UndecodablePictureError(f"the data is not a picture in one of the formats {', '.join(FORMATS)}")
        require(form)
        bounds.check_canvas(data, form, self._max_pixels)
        if form == "PNG":
            self._png = png.take_apart(data)
            data = self._png.pixels
        elif form == "TIFF":
            self._page = tiff_pages.choose_page(tiff_pages.read_pages(data))
            if self._page is not None:
                data = tiff_pages.starting_with(data, self._page)
        elif form == "JPEG":
            self._segments = jpeg.read_segments(data)
            if self._segments.precision != 8:
                raise UndecodablePictureError(f"JPEGs of {self._segments.precision} bits per sample are not supported; save it with 8")
        try:
            # Of a JPEG the first picture alone is wanted: Pillow's own choice may fail over a broken index of further ones.
            image: Image.Image | PlanesTiff | bmp.PixelsBmp
            if form == "TIFF":
                image = tiff.open_tiff(data, self._page)
                self._undecoded = image if isinstance(image, PlanesTiff) else None
            elif form == "BMP" and (pixels := bmp.open_bmp(data)) is not None:
                image = self._undecoded = pixels
            else:
                image = JpegImageFile(io.BytesIO(data)) if form == "JPEG" else Image.open(io.BytesIO(data), formats=(form,))
        except UnidentifiedImageError as error:
            raise UndecodablePictureError(f"the data begins like {form}, but is broken, cut off or of an unsupported kind") from error
        bounds.check_size(image.height, image.width, self._max_pixels)
        return form, image

    def _header(self) -> Header:
        height, width = self._image.height, self._image.width
        orientation = self._orientation()
        # Pillow states TIFF sizes already turned, those of all other formats as stored.
        if orientation in SWAPS_SIDES and self._form != "TIFF":
            height, width = width, height
        return Header(self._form, height, width, orientation)

    def _orientation(self) -> int:
        if self._form in ("JXL", "BMP"):  # JPEG XL's decoder turns the picture, and the standard has EXIF ignored; BMP has no EXIF
            return 1
        return self._png.orientation if self._png is not None else orientation_of(self._image)

    def _check_single(self) -> None:
        data = self._data
        if self._segments is not None:
            behind.check_single(data, self._segments.end, self._segments)
        elif (end_of := {"PNG": bounds.end_of_png, "WEBP": bounds.end_of_webp, "BMP": bounds.end_of_bmp}.get(self._form)) is not None:
            behind.check_single(data, end_of(data))

    def _samples(self, intensity: Intensity) -> Samples:
        if self._undecoded is not None:
            return self._undecoded.samples()
        image = self._image
        assert isinstance(image, Image.Image)
        if self._png is not None:
            return png.decode_png(image, self._png, exact=intensity.kind != "full")
        if self._page is not None:
            tiff_strips.check_strips(image, self._data)
            return tiff.decode_tiff(image, self._page)
        if self._segments is not None:
            return jpeg.decode_jpeg(image, self._data, self._segments)
        covered = image.tile[0].extents if self._form == "GIF" and isinstance(image, ImageFile) and image.tile else None
        image.load()
        samples = samples_of(image, self._orientation())
        return samples if covered is None else transparent_outside(samples, covered)


def samples_of(image: Image.Image, orientation: int) -> Samples:
    """The samples of an image that Pillow has loaded, of formats whose modes say all that there is to know."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        return Samples(np.asarray(image).astype(np.uint16), 65535, None, profile, orientation, deep=True)
    if image.mode in ("I", "F"):
        return Samples(np.asarray(image), None, None, profile, orientation)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        return Samples(np.asarray(rgba.convert("L" if rgba.mode == "LA" else "RGB")), 255, alpha, profile, orientation)
    direct = image if image.mode in ("L", "RGB", "CMYK") else image.convert("L" if image.mode == "1" else "RGB")
    return Samples(np.asarray(direct), 255, None, profile, orientation)


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


def read_picture(data: bytes, max_pixels: int, intensity: Intensity = FULL) -> DecodedPicture:
    """A whole picture. Errors: as `read_header` and `OpenedPicture.decode`."""
    return OpenedPicture(data, max_pixels).decode(intensity)


def _text(error: Exception) -> str:
    """What a decoder said, without memory addresses and file objects."""
    text = str(error)
    return type(error).__name__ if not text or "object at 0x" in text else text
