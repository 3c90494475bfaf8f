"""Segments -> GeoJSON: a FeatureCollection of MultiPolygons (RFC 7946) that QuPath reads as its own objects, and GIS tools as shapes."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.formats.geojson_text import coordinates_text
from proscale.formats.polygons import Outlines, trace_all
from proscale.formats.runs import Positions, SideBySide, side_by_side
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
    options = _checked(options)
    shapes = geometries(side_by_side([segment.segmentation for segment in segmentation.segments]), options)
    return {"type": "FeatureCollection", "features": _features(segmentation, shapes, seed)}


def feature_collection_text(segmentation: Segmentation, options: GeoJSONOptions | None = None, seed: str = "") -> bytes:
    """`feature_collection` as compact JSON, UTF-8, in less time. Raises ValueError as it does."""
    options = _checked(options)
    if options.affine != PIXELS:
        return dumps(feature_collection(segmentation, options, seed))
    outlines = _outlines(side_by_side([segment.segmentation for segment in segmentation.segments]), options)
    texts = coordinates_text(outlines, *_closed(outlines))
    features = []
    for feature, text in zip(_features(segmentation, [_geometry([])] * len(texts), seed), texts, strict=True):
        # Nothing that users name stands in front of a geometry.
        before, after = dumps(feature).split(b'"coordinates":[]', 1)
        features.append(b"".join([before, b'"coordinates":', text, after]))
    return b'{"type":"FeatureCollection","features":[' + b",".join(features) + b"]}"


def geometries(masks: SideBySide, options: GeoJSONOptions | None = None) -> list[dict[str, Any]]:
    """A GeoJSON geometry for every mask; outer rings anticlockwise in the written coordinates, as RFC 7946 wants them."""
    options = options or GeoJSONOptions()
    return [_geometry(each) for each in _written(_outlines(masks, options), options.affine)]


def _checked(options: GeoJSONOptions | None) -> GeoJSONOptions:
    options = options or GeoJSONOptions()
    a, b, _, d, e, _ = options.affine
    if options.simplify < 0:
        raise ValueError(f"simplify: must be 0 or more pixels (it is {options.simplify:g})")
    if not np.isfinite(options.affine).all() or a * e == b * d:
        raise ValueError(f"affine: must be six finite numbers of a transform that can be undone (they are {options.affine})")
    return options


def _outlines(masks: SideBySide, options: GeoJSONOptions) -> Outlines:
    outlines = trace_all(masks)
    return simplified(outlines, options.simplify) if options.simplify > 0 else outlines


def _geometry(coordinates: list[Any]) -> dict[str, Any]:
    return {"type": "MultiPolygon", "coordinates": coordinates}


def _features(segmentation: Segmentation, shapes: Sequence[dict[str, Any]], seed: str) -> list[dict[str, Any]]:
    colours = segment_colours(segmentation.segments).tolist()
    return [
        _feature(segment, colour, shape, f"{seed}/{segmentation.task}/{segment.id}")
        for segment, colour, shape in zip(segmentation.segments, colours, shapes, strict=True)
    ]


def simplified(outlines: Outlines, tolerance: float) -> Outlines:
    """Fewer corners: Douglas and Peucker's simplification, without letting rings cross or vanish.

    Args:
        tolerance: in pixels. Every dropped corner lies within it of the new outline.
    """
    import shapely  # here: nobody else needs GEOS

    if not len(outlines.corners):
        return outlines
    closed, bounds = _closed(outlines)
    rings = shapely.linearrings(outlines.corners[closed].astype(float), indices=np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)))
    polygon_of = np.repeat(np.arange(len(outlines.polygons) - 1), np.diff(outlines.polygons))
    shapes = shapely.simplify(shapely.polygons(rings, indices=polygon_of), tolerance, preserve_topology=True)
    kept = ~shapely.is_empty(shapes)
    rings, of_shape = shapely.get_rings(shapes[kept], return_index=True)
    corners, of_ring = shapely.get_coordinates(rings, return_index=True)
    last = np.append(of_ring[1:] != of_ring[:-1], True)  # a ring's first corner once more
    return Outlines(
        corners[~last].astype(np.int64),
        np.searchsorted(of_ring[~last], np.arange(len(rings) + 1)),
        np.searchsorted(of_shape, np.arange(int(kept.sum()) + 1)),
        np.concatenate([[0], np.cumsum(kept)])[outlines.masks],
    )


def dumps(value: Any) -> bytes:
    """Compact JSON, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _feature(segment: Segment, colour: list[int], geometry: dict[str, Any], seed: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, seed)),
        "geometry": geometry,
        "properties": {
            # What QuPath counts and measures are detections; areas that hold them are annotations.
            "objectType": "detection" if segment.isthing else "annotation",
            "classification": {"name": segment.label, "color": colour},
            "measurements": {"Score": round(segment.score, 6), "Area px^2": segment.area},
            "segment_id": segment.id,
            "category_id": segment.category_id,
        },
    }


def _closed(outlines: Outlines) -> tuple[Positions, Positions]:
    """Indices of all corners, a ring's first one once more behind its last; and where each ring begins among them, with the end of all."""
    starts, lengths = outlines.rings[:-1], np.diff(outlines.rings)
    bounds = outlines.rings + np.arange(len(outlines.rings))
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths + 1)
    return np.repeat(starts, lengths + 1) + within % np.repeat(lengths, lengths + 1), bounds


def _written(outlines: Outlines, affine: Affine) -> list[list[list[list[list[float]]]]]:
    """The coordinates of every mask's MultiPolygon. All numbers are made at once, since rings are many and short."""
    closed, bounds = _closed(outlines)
    a, b, c, d, e, f = affine
    # A transform with a mirror in it, such as a map whose y points up, turns the direction of every ring.
    if a * e - b * d < 0:
        closed = closed[np.repeat(bounds[1:] + bounds[:-1] - 1, np.diff(bounds)) - np.arange(len(closed))]
    corners: NDArray[Any] = outlines.corners[closed]
    if affine != PIXELS:
        x, y = corners[:, 0], corners[:, 1]
        corners = np.stack([a * x + b * y + c, d * x + e * y + f], 1)
    numbers = corners.tolist()
    rings = [numbers[start:end] for start, end in pairwise(bounds.tolist())]
    polygons = [rings[start:end] for start, end in pairwise(outlines.polygons.tolist())]
    return [polygons[start:end] for start, end in pairwise(outlines.masks.tolist())]
