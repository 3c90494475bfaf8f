"""Files for results of large pictures: written segment by segment, they hold what the results hold."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import rasterio
import shapely

from proscale.config import Task
from proscale.formats.runs import to_rle
from proscale.pictures.large.decoders import Georeference
from proscale.rle import decode
from proscale.tiles.files import StreamOptions, geojson, label_tiff, write_segments
from proscale.tiles.merge import MergedSegment

from .oracle import blobs, laid_out, merge, segments_of, windows_of

PLACE = Georeference((0.5, 0.0, 600000.0, 0.0, -0.5, 5300000.0), "EPSG:32632")


@pytest.fixture(scope="module")
def found() -> list[MergedSegment]:
    ids = blobs(4, 300, 420, 60)
    layout = laid_out(ids, 128, 32)
    return merge("panoptic", layout, [segments_of(part, connected=True) for part in windows_of(ids, layout)])


def options(task: Task = "panoptic", place: Georeference | None = None) -> StreamOptions:
    return StreamOptions(task, (300, 420), place, seed="x")


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_tiff, "TILE", 64)
    monkeypatch.setattr(label_tiff, "_RUNS_AT_ONCE", 100)


@pytest.mark.usefixtures("_small_tiles")
def test_a_map_of_ids_is_tiled_and_lies_where_the_picture_lies(tmp_path: Path, found: list[MergedSegment]) -> None:
    assert write_segments(iter(found), {"ids_tiff": tmp_path / "ids.tif"}, options(place=PLACE)) == len(found)
    with rasterio.open(tmp_path / "ids.tif") as file:
        ids = file.read(1)
        assert (file.profile["tiled"], file.block_shapes, file.crs.to_string(), file.nodata) == (True, [(64, 64)], "EPSG:32632", 0)
        assert tuple(file.transform)[:6] == PLACE.affine
    for number, segment in enumerate(found, start=1):
        assert ((ids == number) == decode(to_rle(segment.runs))).all()


@pytest.mark.usefixtures("_small_tiles")
def test_of_overlapping_instances_the_higher_score_is_on_top(tmp_path: Path, found: list[MergedSegment]) -> None:
    things = [segment for segment in found if segment.isthing][:20]
    sure = [MergedSegment(s.category_id, s.label, True, score, s.runs) for s, score in zip(things, np.linspace(0.9, 0.1, 20), strict=True)]
    unsure = MergedSegment(1, "all", True, 0.5, found[0].runs)
    segments = [*sure[:10], unsure, *sure[10:], *(MergedSegment(1, "low", True, 0.01, s.runs) for s in things)]
    write_segments(segments, {"ids_tiff": tmp_path / "ids.tif"}, options("instance"))
    expected = np.zeros((300, 420), np.uint16)
    for number, segment in sorted(enumerate(segments, start=1), key=lambda each: each[1].score):
        expected[decode(to_rle(segment.runs))] = number
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "ids.tif") as file:
        assert (file.read(1) == expected).all()


def test_many_segments_get_wider_ids(tmp_path: Path, found: list[MergedSegment]) -> None:
    empty = MergedSegment(1, "c", True, 0.5, found[0].runs.only(np.zeros(len(found[0].runs), bool)))
    write_segments([*[empty] * 66_000, found[0]], {"ids_tiff": tmp_path / "ids.tif"}, options())
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "ids.tif") as file:
        assert (file.dtypes, file.read(1).max()) == (("uint32",), 66_001)


def test_geojson_has_a_feature_per_segment_in_map_coordinates(tmp_path: Path, found: list[MergedSegment]) -> None:
    write_segments(found, {"geojson": tmp_path / "found.geojson"}, options(place=PLACE))
    collection = json.loads((tmp_path / "found.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    assert [feature["properties"]["segment_id"] for feature in collection["features"]] == list(range(1, len(found) + 1))
    for feature, segment in zip(collection["features"], found, strict=True):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.area == pytest.approx(segment.runs.area * 0.25)
        left, bottom, right, top = shape.bounds
        assert 600000 <= left < right <= 600210
        assert 5299850 <= bottom < top <= 5300000
    assert len({feature["id"] for feature in collection["features"]}) == len(found)


def test_a_segment_of_very_many_runs_is_several_features(
    tmp_path: Path, found: list[MergedSegment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geojson, "MOST_RUNS", 40)
    write_segments(found, {"geojson": tmp_path / "found.geojson"}, options())
    features = json.loads((tmp_path / "found.geojson").read_text())["features"]
    for number, segment in enumerate(found, start=1):
        parts = [feature for feature in features if feature["properties"]["segment_id"] == number]
        assert len(parts) == 1 or [part["properties"]["part"] for part in parts] == list(range(len(parts)))
        assert sum(shapely.geometry.shape(part["geometry"]).area for part in parts) == segment.runs.area
    assert len(features) > len(found)


def test_parquet_has_a_row_per_segment(tmp_path: Path, found: list[MergedSegment]) -> None:
    write_segments(found, {"parquet": tmp_path / "found.parquet"}, options(place=PLACE))
    table = pyarrow.parquet.read_table(tmp_path / "found.parquet")
    rows = table.to_pylist()
    assert [row["counts"] for row in rows] == [to_rle(segment.runs).counts for segment in found]
    assert [row["area"] for row in rows] == [segment.runs.area for segment in found]
    assert [(row["id"], row["label"], row["isthing"]) for row in rows] == [(i, s.label, s.isthing) for i, s in enumerate(found, start=1)]
    about = table.schema.metadata
    assert (about[b"height"], about[b"width"], about[b"crs"], about[b"task"]) == (b"300", b"420", b"EPSG:32632", b"panoptic")


def test_a_failed_write_leaves_no_files(tmp_path: Path, found: list[MergedSegment]) -> None:
    def breaking() -> "object":
        yield found[0]
        raise KeyboardInterrupt

    paths = {"geojson": tmp_path / "a.geojson", "parquet": tmp_path / "a.parquet", "ids_tiff": tmp_path / "a.tif"}
    with pytest.raises(KeyboardInterrupt):
        write_segments(breaking(), paths, options())
    assert list(tmp_path.iterdir()) == []
