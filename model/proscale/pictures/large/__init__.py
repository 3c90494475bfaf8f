"""Pictures that are too large to be decoded as a whole: read row by row from files, with the extra `large`."""

from proscale.pictures.large.bands import LargeFile, open_large

__all__ = ["LargeFile", "open_large"]
