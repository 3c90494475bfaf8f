"""Pictures of any size, segmented window by window: where the windows lie, and how their results become one; needs no torch."""

from proscale.tiles.joint import plan_joint
from proscale.tiles.layout import Layout, lay_out
from proscale.tiles.merge import Merger, merged_prediction
from proscale.tiles.options import AUTO, OFF, Tiling, parse_tiling
from proscale.tiles.options import PATTERN as TILING_PATTERN
from proscale.tiles.segment import segment_picture, segment_windows

__all__ = [
    "AUTO",
    "OFF",
    "TILING_PATTERN",
    "Layout",
    "Merger",
    "Tiling",
    "lay_out",
    "merged_prediction",
    "parse_tiling",
    "plan_joint",
    "segment_picture",
    "segment_windows",
]
