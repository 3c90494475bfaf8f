"""Reads picture files: the one reader of the service, the command line, training and evaluation; needs no torch."""

from proscale.pictures.formats import FORMATS, SUFFIXES
from proscale.pictures.intensity import FULL, Intensity, parse_intensity
from proscale.pictures.intensity import PATTERN as INTENSITY_PATTERN
from proscale.pictures.reader import OpenedPicture, read_header, read_picture
from proscale.pictures.records import DecodedPicture, Header

__all__ = [
    "FORMATS",
    "FULL",
    "INTENSITY_PATTERN",
    "SUFFIXES",
    "DecodedPicture",
    "Header",
    "Intensity",
    "OpenedPicture",
    "parse_intensity",
    "read_header",
    "read_picture",
]
