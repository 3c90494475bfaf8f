"""Reads picture files: the one reader of the service, the command line, training and evaluation; needs no torch."""

from proscale.pictures.reader import FORMATS, DecodedPicture, Header, OpenedPicture, read_header, read_picture

__all__ = ["FORMATS", "DecodedPicture", "Header", "OpenedPicture", "read_header", "read_picture"]
