"""Segments -> COCO's result files: a results JSON, and a panoptic PNG with its `segments_info`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.formats.label_maps import id_map
from proscale.results import RLE, Segmentation
from proscale.rle import decompress


def results(segmentation: Segmentation, image_id: int | str) -> list[dict[str, Any]]:
    """Entries of a COCO results JSON, as `COCO.loadRes` of pycocotools reads them."""
    return [
        {
            "image_id": image_id,
            "category_id": segment.category_id,
            "segmentation": {"size": list(segment.segmentation.size), "counts": segment.segmentation.counts},
            "bbox": list(segment.bbox),
            "area": segment.area,
            "score": round(segment.score, 6),
        }
        for segment in segmentation.segments
    ]


def uncompressed(rle: RLE) -> dict[str, Any]:
    """An RLE whose counts are a list of run lengths: column-major, zeros first."""
    return {"size": list(rle.size), "counts": decompress(rle.counts).tolist()}


def panoptic_map(segmentation: Segmentation) -> NDArray[np.uint8]:
    """The picture of a panoptic PNG: (H, W, 3) uint8, id = R + 256 G + 65536 B, 0 where no segment is.

    Raises:
        ValueError: instances may overlap, so that no pixel map holds them.
    """
    if segmentation.task == "instance":
        raise ValueError("coco_panoptic: instances may overlap, a map of pixels cannot hold them; ask for task=panoptic")
    ids = id_map(segmentation, np.uint32)
    # The bytes of a little-endian number are red, green, blue and one that COCO leaves out.
    return np.ascontiguousarray(ids.astype("<u4", copy=False).view(np.uint8).reshape(*ids.shape, 4)[..., :3])


def panoptic_annotation(segmentation: Segmentation, image_id: int | str, file_name: str) -> dict[str, Any]:
    """The entry of a panoptic JSON that belongs to `panoptic_map`. Args: file_name: the PNG's."""
    info = [
        {
            "id": segment.id,
            "category_id": segment.category_id,
            "isthing": int(segment.isthing),
            "area": segment.area,
            "bbox": list(segment.bbox),
            "iscrowd": 0,
            "score": round(segment.score, 6),
        }
        for segment in segmentation.segments
    ]
    return {"image_id": image_id, "file_name": file_name, "segments_info": info}


def categories(segmentations: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """The categories that occur, as COCO files list them."""
    found = {s.category_id: (s.label, s.isthing) for each in segmentations for s in each.segments}
    return [{"id": number, "name": name, "isthing": int(isthing)} for number, (name, isthing) in sorted(found.items())]
