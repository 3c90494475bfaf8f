"""How large a picture is and where it ends, by its header: known before any decoder makes room for it."""

from proscale.errors import PictureSizeError, UndecodablePictureError
from proscale.pictures.jxl import jxl_size
from proscale.pictures.png import chunks


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise PictureSizeError for more than `max_pixels`, UndecodablePictureError for none."""
    if height < 1 or width < 1:
        raise UndecodablePictureError(f"the picture has no pixels: it is {width}x{height}")
    if height * width > max_pixels:
        raise PictureSizeError(f"the picture has {width}x{height} = {height * width} pixels, more than the limit of {max_pixels}")


def check_canvas(data: bytes, form: str, max_pixels: int) -> None:
    """`check_size` of formats whose decoders make room before Pillow tells a size, or for another size than the one that it tells."""
    if form == "JXL":
        size = jxl_size(data)
        if size is None:
            raise UndecodablePictureError("the JPEG XL's size cannot be read")
    else:
        size = {"WEBP": webp_size, "JPEG2000": jpeg_2000_size}.get(form, _unknown)(data)
    if size is not None:
        check_size(*size, max_pixels)


def jpeg_2000_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels by the codestream's SIZ segment (T.800, A.5.1); None: there is none."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 24:
        return None
    right, bottom, left, top = (int.from_bytes(data[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
    return max(0, bottom - top), max(0, right - left)


def _unknown(data: bytes) -> None:
    return None


def end_of_png(data: bytes) -> int | None:
    """Offset behind the IEND chunk, None when there is none."""
    for kind, start, end in chunks(data):
        if kind == b"IEND":
            return end if end - start >= 12 else None
    return None


def end_of_webp(data: bytes) -> int | None:
    """Offset behind the RIFF container."""
    size = int.from_bytes(data[4:8], "little")
    return 8 + size + size % 2


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a WebP's canvas in pixels; None for other data. Pillow makes room for the canvas when it opens the file."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF


def end_of_bmp(data: bytes) -> int | None:
    """The file size that the header states."""
    return int.from_bytes(data[2:6], "little") or None
