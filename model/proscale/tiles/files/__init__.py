"""Results of large pictures as files that are written segment by segment."""

from proscale.tiles.files.writing import FORMATS, StreamOptions, write_segments

__all__ = ["FORMATS", "StreamOptions", "write_segments"]
