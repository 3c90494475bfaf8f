"""What other readers make of the files: tifffile of the instance map, GeoPandas and QuPath's rules of GeoJSON, panopticapi's of the PNG."""

import io
import json
import uuid
import warnings

import geopandas
import numpy as np
import pandas
import tifffile
from PIL import Image
from tests.model.formats.segmentations import instances, partition

from proscale.formats.files import FORMATS, FormatOptions
from proscale.formats.geojson import GeoJSONOptions

IDS = np.kron(np.random.default_rng(9).integers(0, 5, (6, 8)), np.ones((4, 4), int))


def written(name: str, segmentation: object = None, **options: object) -> list[bytes]:
    return [file.data for file in FORMATS[name].write(segmentation or partition(IDS), None, FormatOptions(**options))]


def test_tifffile_reads_the_instance_map() -> None:
    (data,) = written("ids_tiff")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        (page,) = file.pages
        assert page.dtype == np.uint16
        np.testing.assert_array_equal(page.asarray(), IDS)


def test_geopandas_reads_the_shapes_where_they_lie_on_a_map() -> None:
    """Through GDAL, as QGIS does, and with the table's columns beside the shapes."""
    segmentation, affine = partition(IDS), (0.5, 0.0, 300_000.0, 0.0, -0.5, 5_000_000.0)
    (data,) = written("geojson", segmentation, polygons=GeoJSONOptions(affine=affine))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GDAL takes every GeoJSON for degrees, as RFC 7946 says
        frame = geopandas.read_file(io.BytesIO(data)).set_crs("EPSG:32632", allow_override=True)
    assert frame.geometry.is_valid.all()
    assert set(frame.geom_type) == {"MultiPolygon"}
    assert list(frame["segment_id"]) == [each.id for each in segmentation.segments]
    # Half a metre per pixel.
    assert (frame.area * 4).tolist() == [each.area for each in segmentation.segments]
    assert frame.total_bounds.tolist() == [300_000, 5_000_000 - IDS.shape[0] / 2, 300_000 + IDS.shape[1] / 2, 5_000_000]
    overlay = geopandas.overlay(frame, frame, how="intersection", keep_geom_type=True)
    assert len(overlay) == len(frame)  # segments share no area


def test_pandas_reads_the_table() -> None:
    segmentation = partition(IDS)
    (file,) = FORMATS["csv"].write(segmentation, np.full((*IDS.shape, 3), 100, np.uint8), FormatOptions())
    frame = pandas.read_csv(io.BytesIO(file.data)).set_index("id")
    assert frame.groupby("label")["area"].sum().to_dict() == {
        label: sum(each.area for each in segmentation.segments if each.label == label) for label in ("sky", "cell")
    }
    assert (frame["mean_intensity"] == 100).all()
    assert not frame.isna().any().any()


def test_qupath_can_import_the_shapes() -> None:
    """Its reader wants Features with a polygonal geometry of closed rings, a known object type, a classification of a name and three bytes
    of colour, numbers as measurements, and UUIDs, where there are ids."""
    for segmentation in (partition(IDS), instances(IDS == 1)):
        (data,) = written("geojson", segmentation)
        collection = json.loads(data)
        assert collection["type"] == "FeatureCollection"
        assert len(collection["features"]) == len(segmentation.segments)
        for feature in collection["features"]:
            assert feature["type"] == "Feature"
            assert str(uuid.UUID(feature["id"])) == feature["id"]
            assert feature["geometry"]["type"] == "MultiPolygon"
            for polygon in feature["geometry"]["coordinates"]:
                for ring in polygon:
                    assert ring[0] == ring[-1]
                    assert len(ring) >= 4
            properties = feature["properties"]
            assert properties["objectType"] in ("detection", "annotation", "cell", "tile")
            assert isinstance(properties["classification"]["name"], str)
            red, green, blue = properties["classification"]["color"]
            assert all(isinstance(each, int) and 0 <= each <= 255 for each in (red, green, blue))
            assert all(isinstance(value, int | float) for value in properties["measurements"].values())


def test_panopticapis_rules_hold() -> None:
    """Every id of the PNG has its entry and the other way round, areas are counted right, and nothing is 0 but void."""
    pixels, text = written("coco_panoptic", image_id=7)
    colours = np.asarray(Image.open(io.BytesIO(pixels))).astype(int)
    ids = colours @ (1, 256, 65536)
    whole = json.loads(text)
    (annotation,) = whole["annotations"]
    categories = {each["id"] for each in whole["categories"]}
    found = dict(zip(*(values.tolist() for values in np.unique(ids[ids > 0], return_counts=True)), strict=True))
    assert {each["id"]: each["area"] for each in annotation["segments_info"]} == found
    assert {each["category_id"] for each in annotation["segments_info"]} <= categories
    assert annotation["image_id"] == 7
    np.testing.assert_array_equal(ids, IDS)
