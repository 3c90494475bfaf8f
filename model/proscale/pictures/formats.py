"""Formats: recognised by the first bytes, and read by Pillow, its plugins among them where they are installed."""

import importlib
from dataclasses import dataclass

from PIL import features

from proscale.errors import UndecodablePictureError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "HEIF", "JXL")
"""Pillow's names of what is tried. Short on purpose: every decoder is attack surface."""
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif", ".hif", ".jxl"),
)
"""File names that the command line takes for pictures when it looks into folders."""
INSTALL = "pip install 'proscale-segmentation-service[pictures]'"

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}
_AVIF_BRANDS = {b"avif", b"avis"}


@dataclass(frozen=True)
class _Extra:
    """A format that not every installation reads."""

    title: str
    feature: str | None = None
    """Pillow's own codec, which some builds of Pillow lack."""
    plugin: str | None = None
    """A package that teaches Pillow the format when it is imported."""
    register: str | None = None
    """What of the package to call for that."""


_EXTRAS = {
    "AVIF": _Extra("AVIF", feature="avif"),
    "JPEG2000": _Extra("JPEG 2000", feature="jpg_2000"),
    "HEIF": _Extra("HEIC", plugin="pillow_heif", register="register_heif_opener"),
    "JXL": _Extra("JPEG XL", plugin="pillow_jxl"),
}


def sniff(data: bytes) -> str | None:
    """The format's name in FORMATS by the first bytes; None for what is none of them."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"):
        return "TIFF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM":
        return "BMP"
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == b"\xff\x4f\xff\x51":
        return "JPEG2000"
    if data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n" or data[:2] == b"\xff\x0a":
        return "JXL"
    return _sniff_boxes(data)


def require(form: str) -> None:
    """Make a format readable.

    Raises:
        UndecodablePictureError: this installation cannot; the text has the command that changes it.
    """
    extra = _EXTRAS.get(form)
    if extra is None:
        return
    if extra.plugin is not None:
        try:
            plugin = importlib.import_module(extra.plugin)
        except ImportError as error:
            raise UndecodablePictureError(f"{extra.title} pictures need a package that is not installed here: {INSTALL}") from error
        if extra.register is not None:
            getattr(plugin, extra.register)()
    elif not features.check(extra.feature or ""):
        raise UndecodablePictureError(
            f"this Pillow was built without {extra.title}; the one that {INSTALL} brings has it, or convert the picture to JPEG or PNG"
        )


def _sniff_boxes(data: bytes) -> str | None:
    """AVIF and HEIF share a container, whose `ftyp` box names brands."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None
