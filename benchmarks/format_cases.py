"""Results that formats are measured on: cells of a Voronoi diagram, with smooth outlines and with ragged ones.

Ragged outlines have many more corners.
"""

import numpy as np
from scipy import ndimage

from proscale.results import Segment, Segmentation
from proscale.rle import encode_id_map, measure

CASES = ((800, 1216, 60, 0.0), (800, 1216, 60, 0.3), (800, 1216, 300, 0.0), (800, 1216, 300, 0.3), (6400, 6250, 300, 0.0))
"""Height, width, segments, roughness of their outlines."""


def segments(height: int, width: int, count: int, roughness: float) -> Segmentation:
    """A panoptic result of about `count` segments: cells of a Voronoi diagram with borders that noise moves."""
    rng = np.random.default_rng(0)
    small = (max(8, height // 4), max(8, width // 4))
    seeds = np.zeros(small, np.int32)
    seeds.ravel()[rng.choice(seeds.size, count, replace=False)] = np.arange(1, count + 1)
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    cells = seeds[tuple(nearest)]
    rows = (np.arange(height) * small[0] // height)[:, None] + rng.normal(0, roughness, (height, width)).round().astype(int)
    columns = (np.arange(width) * small[1] // width)[None] + rng.normal(0, roughness, (height, width)).round().astype(int)
    ids = cells[rows.clip(0, small[0] - 1), columns.clip(0, small[1] - 1)]
    found = []
    for number, rle in encode_id_map(ids, range(1, count + 1)).items():
        area, box = measure(rle)
        found.append(Segment(number, number % 80, f"class {number % 80}", True, 0.9, box, area, rle))
    return Segmentation("panoptic", (height, width), tuple(found))


def outline(roughness: float) -> str:
    """A word for it."""
    return "ragged" if roughness else "smooth"
