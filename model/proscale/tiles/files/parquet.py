"""Parquet: a row per segment, its mask as COCO RLE."""

from pathlib import Path
from typing import Any

from proscale.errors import ParameterError
from proscale.formats.runs import to_rle
from proscale.pictures.large.decoders import INSTALL
from proscale.rle import measure
from proscale.tiles.files.writing import StreamOptions
from proscale.tiles.merge import MergedSegment

ROWS_AT_ONCE = 4096


class ParquetWriter:
    """A table in the making."""

    def __init__(self, path: Path, options: StreamOptions) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise ParameterError(f"parquet needs pyarrow: {INSTALL}") from error
        self._pyarrow = pyarrow
        place = options.georeference
        about = {"task": options.task, "height": str(options.size[0]), "width": str(options.size[1])}
        about |= {} if place is None else {"crs": place.crs, "affine": ",".join(map(repr, place.affine))}
        self._schema = pyarrow.schema(
            [
                ("id", pyarrow.int64()),
                ("category_id", pyarrow.int32()),
                ("label", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
                ("isthing", pyarrow.bool_()),
                ("score", pyarrow.float32()),
                ("area", pyarrow.int64()),
                *((name, pyarrow.int32()) for name in ("x", "y", "width", "height")),
                ("counts", pyarrow.string()),
            ],
            metadata=about,
        )
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, number: int, segment: MergedSegment) -> None:
        """See `SegmentWriter`."""
        rle = to_rle(segment.runs)
        area, (x, y, width, height) = measure(rle)
        about = {"id": number, "category_id": segment.category_id, "label": segment.label, "isthing": segment.isthing}
        box = {"score": segment.score, "area": area, "x": x, "y": y, "width": width, "height": height}
        self._rows.append(about | box | {"counts": rle.counts})
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def finish(self) -> None:
        """See `SegmentWriter`."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """See `SegmentWriter`."""
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []
