"""GeoJSON, COCO, label maps and tables, each read back by the tool that it is for."""

import csv
import io
import json

import numpy as np
import pandas
import pytest
import shapely
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage.measure import regionprops
from tests.model.formats.segmentations import instances, partition, segment

from proscale.formats import coco
from proscale.formats.geojson import GeoJSONOptions, dumps, feature_collection
from proscale.formats.label_maps import category_map, id_map
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
