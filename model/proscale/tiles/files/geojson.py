"""GeoJSON, feature by feature: the features that `formats/geojson.py` makes, in map coordinates where the picture has them.

A segment of very many runs, such as the background of a slide, is several features with one `segment_id`, cut between columns: the
polygons of a million corners would not fit into memory at once.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from proscale.formats.geojson import NAMESPACE, PIXELS, GeoJSONOptions, dumps, geometries
from proscale.formats.runs import ColumnRuns, alone
from proscale.overlay import category_colours
from proscale.tiles.files.writing import StreamOptions
from proscale.tiles.merge import MergedSegment

MOST_RUNS = 200_000
"""Of one feature."""
_COLOURS = 256


class GeoJSONWriter:
    """A FeatureCollection in the making."""

    def __init__(self, path: Path, options: StreamOptions) -> None:
        place = options.georeference
        self._options, self._polygons = options, GeoJSONOptions(options.simplify, PIXELS if place is None else place.affine)
        self._colours = category_colours(_COLOURS).tolist()
        self._file = path.open("wb")
        self._file.write(b'{"type":"FeatureCollection",')
        if place is not None:
            # RFC 7946 knows longitude and latitude alone; GDAL and QGIS read the older member for other systems.
            self._file.write(b'"crs":' + dumps({"type": "name", "properties": {"name": _name(place.crs)}}) + b",")
        self._file.write(b'"features":[')
        self._separator = b"\n"

    def add(self, number: int, segment: MergedSegment) -> None:
        """See `SegmentWriter`."""
        pieces = list(_pieces(segment.runs))
        for part, runs in enumerate(pieces):
            self._file.write(self._separator + dumps(self._feature(number, segment, runs, None if len(pieces) == 1 else part)))
            self._separator = b",\n"

    def finish(self) -> None:
        """See `SegmentWriter`."""
        self._file.write(b"\n]}\n")
        self._file.close()

    def abandon(self) -> None:
        """See `SegmentWriter`."""
        self._file.close()

    def _feature(self, number: int, segment: MergedSegment, runs: ColumnRuns, part: int | None) -> dict[str, Any]:
        seed = f"{self._options.seed}/{self._options.task}/{number}" + ("" if part is None else f"/{part}")
        return {
            "type": "Feature",
            "id": str(uuid.uuid5(NAMESPACE, seed)),
            "geometry": geometries(alone(runs), self._polygons)[0],
            "properties": {
                "objectType": "detection" if segment.isthing else "annotation",
                "classification": {"name": segment.label, "color": self._colours[segment.category_id % _COLOURS]},
                "measurements": {"Score": round(segment.score, 6), "Area px^2": runs.area},
                "segment_id": number,
                "category_id": segment.category_id,
            }
            | ({} if part is None else {"part": part}),
        }


def _pieces(runs: ColumnRuns) -> Iterator[ColumnRuns]:
    """The runs in groups of whole columns."""
    start = 0
    while start < len(runs):
        end = start + MOST_RUNS
        if end < len(runs):
            end = int(np.searchsorted(runs.columns, runs.columns[end]))  # the first run of that column
            if end <= start:  # a single column of more runs
                end = int(np.searchsorted(runs.columns, runs.columns[start], "right"))
        yield ColumnRuns(runs.size, runs.columns[start:end], runs.tops[start:end], runs.bottoms[start:end])
        start = end


def _name(crs: str) -> str:
    authority, _, code = crs.partition(":")
    return f"urn:ogc:def:crs:{authority}::{code}" if code.isdecimal() else crs
