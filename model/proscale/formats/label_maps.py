"""Segments -> maps with one number per pixel: segment ids, or category ids as semantic data sets have them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.results import Segmentation
from proscale.rle import decode_id_map


def id_map(segmentation: Segmentation, dtype: type[np.unsignedinteger[Any]] = np.uint16) -> NDArray[np.unsignedinteger[Any]]:
    """Map of segment ids, (H, W) of `dtype`; 0 where no segment is. Where instances overlap, the one of higher score is on top.

    Raises:
        ValueError: an id does not fit the type.
    """
    return _painted(segmentation, {segment.id: segment.id for segment in segmentation.segments}, 0, dtype)


def category_map(segmentation: Segmentation) -> tuple[NDArray[np.unsignedinteger[Any]], int]:
    """Map of category ids, and the value of pixels without a segment.

    Returns:
        (H, W) uint8 with 255 for none when all ids are below that, else uint16 with 65535.

    Raises:
        ValueError: instances may overlap, or a category id is negative or above 65534.
    """
    if segmentation.task == "instance":
        raise ValueError("semantic maps: instances may overlap, a map of pixels cannot hold them; ask for task=semantic or panoptic")
    wide = any(segment.category_id >= 255 for segment in segmentation.segments)
    void = 65535 if wide else 255
    values = {segment.id: segment.category_id for segment in segmentation.segments}
    if any(not 0 <= value < void for value in values.values()):
        raise ValueError("semantic maps: the model has category ids that 16 bits cannot hold")
    return _painted(segmentation, values, void, np.uint16 if wide else np.uint8), void


def _painted(
    segmentation: Segmentation, values: dict[int, int], background: int, dtype: type[np.unsignedinteger[Any]]
) -> NDArray[np.unsignedinteger[Any]]:
    if max(values.values(), default=0) > np.iinfo(dtype).max:
        raise ValueError(f"{len(values)} segments do not fit a map of {np.iinfo(dtype).bits} bits; set max_segments")
    by_score = sorted(segmentation.segments, key=lambda each: each.score)
    masks = [segment.segmentation for segment in by_score]
    return decode_id_map(masks, [values[segment.id] for segment in by_score], segmentation.size, dtype, background)
