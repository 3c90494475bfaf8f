"""What other readers make of the files: tifffile of the instance map, QuPath's rules for GeoJSON, panopticapi's for the panoptic PNG."""

import io
import json
import uuid

import numpy as np
import tifffile
from PIL import Image
from tests.model.formats.segmentations import instances, partition

from proscale.formats.files import FORMATS, FormatOptions

IDS = np.kron(np.random.default_rng(9).integers(0, 5, (6, 8)), np.ones((4, 4), int))


def written(name: str, segmentation: object = None, **options: object) -> list[bytes]:
    return [file.data for file in FORMATS[name].write(segmentation or partition(IDS), None, FormatOptions(**options))]


def test_tifffile_reads_the_instance_map() -> None:
    (data,) = written("ids_tiff")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        (page,) = file.pages
        assert page.dtype == np.uint16
        np.testing.assert_array_equal(page.asarray(), IDS)


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
