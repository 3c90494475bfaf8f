"""Segments -> GeoJSON: a FeatureCollection of MultiPolygons (RFC 7946) that QuPath reads as its own objects, and GIS tools as shapes."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.formats.polygons import Polygon, Ring, trace
from proscale.overlay import segment_colours
from proscale.results import Segment, Segmentation

Affine = tuple[float, float, float, float, float, float]
PIXELS: Affine = (1, 0, 0, 0, 1, 0)
NAMESPACE = uuid.UUID("3f0b3a52-7c3e-5d59-9f5e-5b6c3f1f2c11")


@dataclass(frozen=True)
class GeoJSONOptions:
    """How polygons are written."""

    simplify: float = 0.0
    """Tolerance in pixels; 0: along pixel edges, exact. No point of a written ring's outline is further than this from the exact one."""
    affine: Affine = PIXELS
    """(a, b, c, d, e, f), the order of rasterio and affine: x' = a x + b y + c, y' = d x + e y + f, from the corner of the first pixel."""


def feature_collection(segmentation: Segmentation, options: GeoJSONOptions | None = None, seed: str = "") -> dict[str, Any]:
    """All segments of a result as one GeoJSON object, ready for `json.dumps`.

    Args:
        seed: what makes the features' UUIDs differ from another picture's; the same seed gives the same UUIDs.

    Raises:
        ValueError: a negative tolerance, or an affine transform that folds the plane.
    """
    options = options or GeoJSONOptions()
    a, b, _, d, e, _ = options.affine
    if options.simplify < 0:
        raise ValueError(f"simplify: must be 0 or more pixels (it is {options.simplify:g})")
    if not np.isfinite(options.affine).all() or a * e == b * d:
        raise ValueError(f"affine: must be six finite numbers of a transform that can be undone (they are {options.affine})")
    colours = segment_colours(segmentation.segments)
    features = [
        _feature(segment, colour.tolist(), options, f"{seed}/{segmentation.task}/{segment.id}")
        for segment, colour in zip(segmentation.segments, colours, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features}


def multi_polygon(polygons: Sequence[Polygon], options: GeoJSONOptions | None = None) -> dict[str, Any]:
    """Polygons as a GeoJSON geometry; outer rings anticlockwise in the written coordinates, as RFC 7946 wants them."""
    options = options or GeoJSONOptions()
    if options.simplify > 0:
        polygons = simplified(polygons, options.simplify)
    return {
        "type": "MultiPolygon",
        "coordinates": _written(polygons, options.affine),
    }


def simplified(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """Fewer corners: Douglas and Peucker's simplification, without letting rings cross or vanish.

    Args:
        tolerance: in pixels. Every dropped corner lies within it of the new outline.
    """
    import shapely  # here: nobody else needs GEOS

    shapes = shapely.simplify([shapely.Polygon(p.exterior, p.holes) for p in polygons], tolerance, preserve_topology=True)
    return [Polygon(_corners(shape.exterior), tuple(_corners(ring) for ring in shape.interiors)) for shape in shapes if not shape.is_empty]


def dumps(value: Any) -> bytes:
    """Compact JSON, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _feature(segment: Segment, colour: list[int], options: GeoJSONOptions, seed: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, seed)),
        "geometry": multi_polygon(trace(segment.segmentation), options),
        "properties": {
            # What QuPath counts and measures are detections; areas that hold them are annotations.
            "objectType": "detection" if segment.isthing else "annotation",
            "classification": {"name": segment.label, "color": colour},
            "measurements": {"Score": round(segment.score, 6), "Area px^2": segment.area},
            "segment_id": segment.id,
            "category_id": segment.category_id,
        },
    }


def _corners(ring: Any) -> Ring:
    return np.asarray(ring.coords)[:-1].astype(np.int64)


def _written(polygons: Sequence[Polygon], affine: Affine) -> list[list[list[list[float]]]]:
    """The rings of all polygons, closed; all numbers are made at once, since rings are many and short."""
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]
    corners: NDArray[Any] = np.concatenate(rings) if rings else np.zeros((0, 2), np.int64)
    a, b, c, d, e, f = affine
    # A transform with a mirror in it, such as a map whose y points up, turns the direction of every ring.
    mirrored = a * e - b * d < 0
    if affine != PIXELS:
        x, y = corners[:, 0], corners[:, 1]
        corners = np.stack([a * x + b * y + c, d * x + e * y + f], 1)
    numbers, start, written = corners.tolist(), 0, []
    for polygon in polygons:
        of_polygon = []
        for ring in (polygon.exterior, *polygon.holes):
            points = numbers[start : start + len(ring)]
            points.append(points[0])
            of_polygon.append(points[::-1] if mirrored else points)
            start += len(ring)
        written.append(of_polygon)
    return written
