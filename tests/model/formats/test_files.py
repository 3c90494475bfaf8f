"""GeoJSON, COCO, label maps and tables, each read back by the tool that it is for."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
import shapely
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage
from skimage.measure import regionprops
from tests.model.formats.segmentations import instances, partition, segment

from proscale.formats import coco, geojson
from proscale.formats.files import FORMATS, FormatOptions
from proscale.formats.geojson import GeoJSONOptions, dumps, feature_collection, feature_collection_text
from proscale.formats.label_maps import category_map, id_map
from proscale.formats.polygons import outlines_of, trace
from proscale.formats.polygons_slow import trace_slowly
from proscale.formats.table import COLUMNS, write_table
from proscale.results import Segmentation

# pycocotools was written before NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(5)
IDS = RNG.integers(0, 5, (20, 30))


def blob(height: int = 60, width: int = 80) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    circle = (rows - 30) ** 2 + (columns - 40) ** 2 < 25**2
    return circle & ~((rows - 30) ** 2 + (columns - 40) ** 2 < 9**2)


class TestGeoJSON:
    def test_shapely_reads_the_exact_mask(self) -> None:
        (feature,) = json.loads(dumps(feature_collection(instances(blob()))))["features"]
        shape = shapely.geometry.shape(feature["geometry"])
        rows, columns = np.mgrid[:60, :80]
        assert (shapely.contains_xy(shape, columns + 0.5, rows + 0.5) == blob()).all()
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["classification"]["name"] == "cell"
        assert len(feature["properties"]["classification"]["color"]) == 3

    def test_rings_follow_the_right_hand_rule_also_under_a_mirror(self) -> None:
        for affine in ((1, 0, 0, 0, 1, 0), (0.5, 0, 300_000, 0, -0.5, 5_000_000)):
            (feature,) = feature_collection(instances(blob()), GeoJSONOptions(affine=affine))["features"]
            (polygon,) = shapely.geometry.shape(feature["geometry"]).geoms
            assert polygon.exterior.is_ccw
            assert not polygon.interiors[0].is_ccw

    def test_affine_moves_to_map_coordinates(self) -> None:
        (feature,) = feature_collection(instances(np.ones((2, 4), bool)), GeoJSONOptions(affine=(0.5, 0, 100, 0, -0.5, 200)))["features"]
        assert shapely.geometry.shape(feature["geometry"]).bounds == (100, 199, 102, 200)

    @pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
    def test_simplified_outlines_stay_within_the_tolerance(self, tolerance: float) -> None:
        exact, simple = (
            shapely.geometry.shape(feature_collection(instances(blob()), GeoJSONOptions(simplify=each))["features"][0]["geometry"])
            for each in (0.0, tolerance)
        )
        assert shapely.get_num_coordinates(simple) < shapely.get_num_coordinates(exact)
        assert simple.is_valid
        assert len(simple.geoms[0].interiors) == 1
        assert shapely.hausdorff_distance(exact.boundary, simple.boundary) <= tolerance + 1e-9

    @pytest.mark.parametrize("affine", [(1, 0, 0, 0, 1, 0), (0.5, 0, 300_000, 0, -0.5, 5_000_000)])
    def test_byte_for_byte_what_the_slow_twin_traces(self, monkeypatch: pytest.MonkeyPatch, affine: tuple[float, ...]) -> None:
        ids = RNG.integers(0, 5, (30, 120))  # numbers of one, two and three digits
        hostile = replace(segment(9, np.zeros(ids.shape, bool)), label='é","coordinates":[],"')
        found = partition(ids, labels=('"coordinates":[]', "Zelle")).segments
        segmentation, options = Segmentation("panoptic", ids.shape, (hostile, *found, hostile)), GeoJSONOptions(affine=affine)
        fast = feature_collection_text(segmentation, options, "seed")
        slow = outlines_of([trace_slowly(each.segmentation) for each in segmentation.segments])
        monkeypatch.setattr(geojson, "trace_all", lambda masks: slow)
        assert dumps(feature_collection(segmentation, options, "seed")) == fast

    def test_no_segments_are_an_empty_collection(self) -> None:
        empty = Segmentation("panoptic", (3, 4), ())
        assert feature_collection_text(empty) == dumps(feature_collection(empty)) == b'{"type":"FeatureCollection","features":[]}'

    def test_simplified_shapes_are_those_of_each_polygon(self) -> None:
        ids = np.kron(RNG.integers(0, 4, (9, 9)), np.ones((7, 7), int))
        features = feature_collection(partition(ids), GeoJSONOptions(simplify=4.0))["features"]
        for each, feature in zip(partition(ids).segments, features, strict=True):
            exact = [shapely.Polygon(piece.exterior, piece.holes) for piece in trace(each.segmentation)]
            expected = shapely.MultiPolygon(shapely.simplify(exact, 4.0, preserve_topology=True))
            assert shapely.geometry.shape(feature["geometry"]).equals(expected)
        empty = feature_collection(instances(np.zeros((4, 5), bool)), GeoJSONOptions(simplify=1.0))
        assert empty["features"][0]["geometry"]["coordinates"] == []

    def test_uuids_depend_on_the_seed_only(self) -> None:
        def ids(seed: str) -> list[str]:
            return [feature["id"] for feature in feature_collection(partition(IDS), seed=seed)["features"]]

        assert ids("a") == ids("a")
        assert not set(ids("a")) & set(ids("b"))
        assert len(set(ids("a"))) == 4

    @pytest.mark.parametrize(
        "options",
        [GeoJSONOptions(simplify=-1), GeoJSONOptions(affine=(1, 1, 0, 1, 1, 0)), GeoJSONOptions(affine=(float("nan"), 0, 0, 0, 1, 0))],
    )
    def test_options_that_make_no_sense_are_refused(self, options: GeoJSONOptions) -> None:
        with pytest.raises(ValueError, match=r"simplify|affine"):
            feature_collection(partition(IDS), options)


class TestCOCO:
    def test_pycocotools_loads_results(self) -> None:
        segmentation = partition(IDS)
        truth = COCO()
        truth.dataset = {
            "images": [{"id": 7, "height": 20, "width": 30}],
            "categories": [{"id": i} for i in range(1, 5)],
            "annotations": [],
        }
        truth.createIndex()
        loaded = truth.loadRes(coco.results(segmentation, 7))
        for annotation in loaded.loadAnns(loaded.getAnnIds()):
            assert (loaded.annToMask(annotation) == (annotation["category_id"] == IDS)).all()

    def test_uncompressed_counts(self) -> None:
        rle = coco.uncompressed(instances(IDS == 1).segments[0].segmentation)
        assert sum(rle["counts"]) == IDS.size
        assert (coco_mask.decode(coco_mask.frPyObjects(rle, *IDS.shape)) == (IDS == 1)).all()

    def test_panoptic_png_follows_the_published_rule(self) -> None:
        segmentation = partition(IDS + (IDS > 0) * 70_000)
        stored = io.BytesIO()
        Image.fromarray(coco.panoptic_map(segmentation)).save(stored, "PNG")
        red, green, blue = np.moveaxis(np.asarray(Image.open(stored)).astype(int), 2, 0)
        annotation = coco.panoptic_annotation(segmentation, 7, "7.png")
        ids = red + 256 * green + 65536 * blue
        assert (ids == IDS + (IDS > 0) * 70_000).all()
        assert {each["id"]: each["area"] for each in annotation["segments_info"]} == {
            int(i): int(n) for i, n in zip(*np.unique(ids[ids > 0], return_counts=True), strict=True)
        }
        assert [c["id"] for c in coco.categories([segmentation])] == sorted(each["category_id"] for each in annotation["segments_info"])

    def test_overlapping_instances_have_no_panoptic_png(self) -> None:
        with pytest.raises(ValueError, match="overlap"):
            coco.panoptic_map(instances(IDS == 1))


def test_a_webp_that_cannot_be_says_what_can() -> None:
    long = np.zeros((1, 16384, 3), np.uint8)
    with pytest.raises(ValueError, match="16384x1; ask for overlay_png"):
        FORMATS["overlay_webp"].write(instances(long[..., 0] == 0), long, FormatOptions())
    assert FORMATS["overlay_png"].write(instances(long[..., 0] == 0), long, FormatOptions())


class TestLabelMaps:
    def test_id_maps_have_the_segments_ids(self) -> None:
        assert (id_map(partition(IDS)) == IDS).all()

    def test_the_higher_score_is_on_top(self) -> None:
        whole = np.ones((4, 6), bool)
        half = whole.copy()
        half[:, 3:] = False
        assert (id_map(instances(half, whole, scores=[0.9, 0.2])) == np.where(half, 1, 2)).all()
        assert (id_map(instances(half, whole, scores=[0.2, 0.9])) == 2).all()

    def test_ids_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match="max_segments"):
            id_map(Segmentation("instance", (2, 2), (segment(70_000, np.ones((2, 2), bool)),)))

    def test_label_maps_have_category_ids_and_void(self) -> None:
        values, void = category_map(partition(IDS))
        assert values.dtype == np.uint8
        assert (values == np.where(IDS, IDS, void)).all()
        wide, void = category_map(partition(IDS * 100))
        assert wide.dtype == np.uint16
        assert (wide == np.where(IDS, IDS * 100, void)).all()

    def test_semantic_maps_refuse_instances_and_huge_ids(self) -> None:
        for segmentation in (instances(IDS == 1), partition(IDS * 70_000)):
            with pytest.raises(ValueError, match="semantic maps"):
                category_map(segmentation)


class TestTable:
    def test_measures_equal_those_of_scikit_image(self) -> None:
        rng = np.random.default_rng(1)
        image = rng.integers(0, 256, (9, 12, 3), np.uint8)
        for _ in range(60):
            mask = rng.random((9, 12)) < rng.uniform(0.05, 1)
            if not mask.any():
                continue
            (row,) = csv.DictReader(io.StringIO(write_table(instances(mask), image), newline=""))
            (expected,) = regionprops(mask.astype(np.uint8), image @ np.array([0.299, 0.587, 0.114]))
            assert float(row["perimeter"]) == pytest.approx(expected.perimeter, abs=1e-3)
            assert float(row["equivalent_diameter"]) == pytest.approx(expected.equivalent_diameter_area, abs=1e-3)
            assert (float(row["centroid_y"]), float(row["centroid_x"])) == pytest.approx(expected.centroid, abs=1e-3)
            assert float(row["mean_intensity"]) == pytest.approx(expected.intensity_mean, abs=1e-3)
            assert int(row["area"]) == expected.area

    def test_many_overlapping_segments_in_a_picture_of_several_strips(self) -> None:
        rng = np.random.default_rng(4)
        image = rng.integers(0, 256, (40, 150, 3), np.uint8)
        masks = [ndimage.zoom(rng.random((4, 10)), (10, 15), order=1) > share for share in (0.3, 0.5, 0.7)]
        empty = np.zeros((40, 150), bool)
        frame = pandas.read_csv(io.StringIO(write_table(instances(*masks[:2], empty, masks[2]), image)))
        for row, mask in zip((0, 1, 3), masks, strict=True):
            (expected,) = regionprops(mask.astype(np.uint8), image @ np.array([0.299, 0.587, 0.114]))
            found = frame.iloc[row]
            wanted = (expected.area, expected.perimeter, *expected.centroid[::-1], expected.intensity_mean, *expected.bbox[:2][::-1])
            names = ("area", "perimeter", "centroid_x", "centroid_y", "mean_intensity", "bbox_x", "bbox_y")
            assert tuple(found[list(names)]) == pytest.approx(wanted, abs=1e-3)
        assert frame.iloc[2][["centroid_x", "mean_intensity"]].isna().all()

    def test_pandas_reads_labels_with_commas_and_quotes(self) -> None:
        segmentation = Segmentation("panoptic", (2, 2), (segment(1, np.ones((2, 2), bool), label='road, "wet"'),))
        frame = pandas.read_csv(io.StringIO(write_table(segmentation)))
        assert tuple(frame.columns) == COLUMNS
        assert frame["label"][0] == 'road, "wet"'
        assert frame["mean_intensity"].isna().all()

    def test_an_empty_mask_has_no_centre(self) -> None:
        frame = pandas.read_csv(io.StringIO(write_table(instances(np.zeros((3, 3), bool)))))
        assert frame["centroid_x"].isna().all()
        assert frame["area"][0] == 0
