"""Miniatures of public data sets, in the very layouts in which they are downloaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.rle import encode

PANOPTIC_CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "supercategory": "person", "color": [220, 20, 60]},
    {"id": 18, "name": "dog", "isthing": 1, "supercategory": "animal", "color": [0, 82, 0]},
    {"id": 200, "name": "rug-merged", "isthing": 0, "supercategory": "furniture", "color": [1, 2, 3]},
]


def save_picture(path: Path, height: int, width: int, seed: int = 0) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)


def save_map(path: Path, values: NDArray[np.integer], kind: type[np.integer] = np.uint8) -> None:
    """A PNG of numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(kind)).save(path)


def save_ids(path: Path, ids: NDArray[np.integer]) -> None:
    """A PNG in COCO's panoptic coding."""
    save_map(path, np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1))


def write_coco(root: Path) -> None:
    """`val2017/`, `annotations/panoptic_val2017.json` with its folder, `annotations/instances_val2017.json`."""
    ids = np.zeros((40, 60), np.int64)
    ids[4:14, 4:14], ids[20:26, 30:40], ids[30:, :] = 70000, 300, 5
    ids[2:14, 40:48] = 9
    infos = [(70000, 1, 0), (9, 18, 0), (300, 1, 1), (5, 200, 0)]
    segments = [{"id": i, "category_id": c, "iscrowd": crowd, "area": int((ids == i).sum())} for i, c, crowd in infos]
    images = [{"id": i, "file_name": f"{i:012}.jpg", "height": 40, "width": 60} for i in (1, 2)]
    for image in images:
        save_picture(root / "val2017" / str(image["file_name"]), 40, 60)
    save_ids(root / "annotations" / "panoptic_val2017" / "000000000001.png", ids)
    annotation = {"image_id": 1, "file_name": "000000000001.png", "segments_info": segments}
    write_json(
        root / "annotations" / "panoptic_val2017.json",
        {"images": images, "annotations": [annotation], "categories": PANOPTIC_CATEGORIES},
    )
    crowd = np.asfortranarray(ids == 300).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], crowd, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [crowd.size]]))
    objects: list[dict[str, Any]] = [
        {"category_id": 1, "iscrowd": 0, "area": 100.0, "segmentation": [[4, 4, 14, 4, 14, 14, 4, 14]]},
        {"category_id": 1, "iscrowd": 1, "area": 60, "segmentation": {"size": [40, 60], "counts": counts.tolist()}},
        {"category_id": 18, "iscrowd": 0, "area": 96, "segmentation": {"size": [40, 60], "counts": encode(ids == 9).counts}},
    ]
    annotations = [{"id": i + 1, "image_id": 1, "bbox": [0, 0, 1, 1], **row} for i, row in enumerate(objects)]
    categories = [{k: v for k, v in category.items() if k != "isthing"} for category in PANOPTIC_CATEGORIES[:2]]
    write_json(root / "annotations" / "instances_val2017.json", {"images": images, "annotations": annotations, "categories": categories})


def write_json(path: Path, values: object) -> None:
    """Write JSON, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
