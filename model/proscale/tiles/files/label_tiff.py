"""A tiled TIFF of segment ids, georeferenced as the picture is. Runs wait by the row of tiles that they lie in; rows are painted last.

Where instances overlap, the one of higher score is on top, as in `formats/label_maps.py`.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proscale.errors import ParameterError
from proscale.pictures.large.decoders import INSTALL
from proscale.tiles.files.writing import StreamOptions
from proscale.tiles.merge import MergedSegment

TILE = 512
"""Pixels a side of the TIFF's tiles."""
_RUNS_AT_ONCE = 1 << 13


class LabelWriter:
    """A map of ids in the making."""

    def __init__(self, path: Path, options: StreamOptions) -> None:
        try:
            import rasterio
        except ImportError as error:
            raise ParameterError(f"tiled TIFFs need rasterio: {INSTALL}") from error
        self._rasterio, self._path, self._options = rasterio, path, options
        self._rows: list[list[NDArray[np.int32]]] = [[] for _ in range(0, options.size[0], TILE)]
        """Per row of tiles: arrays (4, R) of id, column, first row and row behind the last."""
        self._scores = [0.0]
        path.touch()

    def add(self, number: int, segment: MergedSegment) -> None:
        """See `SegmentWriter`."""
        self._scores.append(segment.score)
        runs = segment.runs
        if not len(runs):
            return
        for row in range(int(runs.tops.min()) // TILE, (int(runs.bottoms.max()) - 1) // TILE + 1):
            tops, bottoms = np.maximum(runs.tops, row * TILE), np.minimum(runs.bottoms, (row + 1) * TILE)
            inside = tops < bottoms
            if inside.any():
                ids = np.full(int(inside.sum()), number)
                self._rows[row].append(np.stack([ids, runs.columns[inside], tops[inside], bottoms[inside]]).astype(np.int32))

    def finish(self) -> None:
        """See `SegmentWriter`."""
        height, width = self._options.size
        place = self._options.georeference
        about = {} if place is None else {"crs": place.crs, "transform": self._rasterio.Affine(*place.affine)}
        kind = np.uint16 if len(self._scores) <= 1 << 16 else np.uint32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._rasterio.errors.NotGeoreferencedWarning)
            try:
                with self._rasterio.open(
                    self._path, "w", driver="GTiff", height=height, width=width, count=1, dtype=np.dtype(kind).name, nodata=0,
                    tiled=True, blockxsize=TILE, blockysize=TILE, compress="deflate", predictor=2, bigtiff="IF_SAFER", **about,
                ) as file:  # fmt: skip
                    for row, runs in enumerate(self._rows):
                        top, bottom = row * TILE, min(height, (row + 1) * TILE)
                        file.write(self._painted(runs, top, bottom, kind), 1, window=((top, bottom), (0, width)))
                        self._rows[row] = []
            except self._rasterio.errors.RasterioError as error:
                raise OSError(f"{self._path.name}: {error}") from error

    def abandon(self) -> None:
        """See `SegmentWriter`."""
        self._rows = []

    def _painted(
        self, pieces: list[NDArray[np.int32]], top: int, bottom: int, kind: type[np.unsignedinteger]
    ) -> NDArray[np.unsignedinteger]:
        width, rows = self._options.size[1], bottom - top
        flat = np.zeros(width * rows, kind)
        if pieces:
            runs = np.concatenate(pieces, axis=1).astype(np.int64)
            if self._options.task == "instance":
                runs = runs[:, np.argsort(np.asarray(self._scores)[runs[0]], kind="stable")]
            for start in range(0, runs.shape[1], _RUNS_AT_ONCE):
                ids, columns, tops, bottoms = runs[:, start : start + _RUNS_AT_ONCE]
                lengths = bottoms - tops
                first = columns * rows + tops - top
                place = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
                flat[place] = np.repeat(ids, lengths)  # of several ids for one place numpy keeps the last
        return np.ascontiguousarray(flat.reshape(width, rows).T)
