"""Evaluation as a whole: of a predictor that knows the answer, of files, of the embedded model; and what the command says."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.builders import SMALL_CATEGORIES
from tests.miniature import save_ids, save_map, save_picture, write_coco, write_json

from proscale.cli import main
from proscale.config import Task
from proscale.datasets import AnnotatedPicture, Dataset, PanopticMap, PanopticSegment, open_dataset
from proscale.errors import DataError
from proscale.evaluation.class_matching import match_classes
from proscale.evaluation.evaluate import evaluate
from proscale.evaluation.extremes import GAP, Judged, as_segmentation, choose_extremes, draw_extremes
from proscale.evaluation.predicted import Predicted, panoptic_map
from proscale.evaluation.report import valid_json
from proscale.labels import Category
from proscale.results import Segment, Segmentation
from proscale.rle import encode, measure

NUCLEI = Path(__file__).parents[3] / "data" / "nuclei"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def figures(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    out = tmp_path / "figures.json"
    result = run(*arguments, "--json", out)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return report


class Answers:
    """A source of prepared answers."""

    tasks: tuple[Task, ...] = ("panoptic",)
    concurrency = 1

    def __init__(self, answers: Sequence[PanopticMap], concurrency: int = 1) -> None:
        self.answers, self.concurrency = answers, concurrency

    def predict(self, picture: AnnotatedPicture, tasks: Sequence[Task]) -> Predicted:
        ids = self.answers[int(picture.id)].ids
        return Predicted((ids.shape[0], ids.shape[1]), self.answers[int(picture.id)], seconds=0.5, flops=10**9, baseline_flops=2 * 10**9)


def truth() -> PanopticMap:
    ids = np.ones((20, 30), np.int32)
    ids[2:8, 3:9], ids[10:18, 12:24] = 2, 3
    grass, cat, dog = (SMALL_CATEGORIES[i].id for i in (3, 0, 1))
    return PanopticMap(ids, (PanopticSegment(1, grass), PanopticSegment(2, cat), PanopticSegment(3, dog)))


def test_best_median_and_worst_are_drawn(tmp_path: Path) -> None:
    right = truth()
    pictures = []
    for i in range(4):
        save_picture(tmp_path / f"{i}.png", 20, 30, seed=i)
        pictures.append(AnnotatedPicture(f"{i}.png", i, tmp_path / f"{i}.png", None, truth))
    dataset = Dataset("made up", tmp_path, "val", SMALL_CATEGORIES, pictures)
    lost = ((2,), (2, 3), (), (3,))  # cat, both, nothing, dog
    answers = [PanopticMap(np.where(np.isin(right.ids, ids), 1, right.ids).astype(np.int32), right.segments) for ids in lost]
    judged: list[Judged] = []
    source = Answers(answers)
    evaluate(dataset, source, SMALL_CATEGORIES, progress=False, on_picture=lambda quality, picture: judged.append((quality, picture)))
    chosen = {name: picture.name for name, (_, picture) in choose_extremes(judged).items()}
    assert chosen == {"best": "2.png", "median": "3.png", "worst": "1.png"}
    assert judged[2][0] == 1.0
    files = draw_extremes(source, SMALL_CATEGORIES, judged, tmp_path / "drawn")
    assert sorted(path.name for path in files.values()) == ["best.jpg", "median.jpg", "worst.jpg"]
    panels = np.asarray(Image.open(files["worst"])).astype(int)
    assert panels.shape == (20, 3 * 30 + 2 * GAP, 3)
    picture = np.asarray(Image.open(tmp_path / "1.png")).astype(int)
    assert np.corrcoef(panels[:, :30].mean(2).ravel(), picture.mean(2).ravel())[0, 1] > 0.7  # JPEG keeps little of noise but its brightness
    shown = as_segmentation(right, SMALL_CATEGORIES)
    assert [(s.label, s.area) for s in shown.segments] == [("grass", 20 * 30 - 36 - 96), ("cat", 36), ("dog", 96)]
    with pytest.raises(DataError, match="must both be panoptic"):
        draw_extremes(source, SMALL_CATEGORIES, [], tmp_path / "none")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_report_has_every_metric(concurrency: int) -> None:
    right = truth()
    half = right.ids.copy()
    half[10:18, 12:24] = 1  # the dog is missed, the grass takes its place
    pictures = [AnnotatedPicture(str(i), i, Path("none"), None, truth) for i in range(2)]
    dataset = Dataset("made up", Path(), "val", SMALL_CATEGORIES, pictures)
    source = Answers([right, PanopticMap(half, right.segments)], concurrency)
    report = evaluate(dataset, source, SMALL_CATEGORIES, progress=False)
    perfect = {"pq": 1.0, "sq": 1.0, "rq": 1.0, "union_iou": 1.0, "union_iou_per_picture": 1.0, "found": 1.0, "precision": 1.0}
    assert report["pictures"] == 2
    assert report["classes"]["cat"] == {"id": 1, "isthing": True} | perfect
    dog = report["classes"]["dog"]
    assert (dog["pq"], dog["sq"], dog["rq"]) == (pytest.approx(1 / 1.5), 1.0, pytest.approx(1 / 1.5))
    assert (dog["union_iou"], dog["union_iou_per_picture"], dog["found"], dog["precision"]) == (0.5, 0.5, 0.5, 1.0)
    grass = (20 * 30 - 36 - 96) / (20 * 30 - 36)
    assert report["classes"]["grass"]["pq"] == pytest.approx((1 + grass) / 2)
    assert report["pq_stuff"] == report["classes"]["grass"]["pq"]
    assert report["pq_things"] == pytest.approx((1 + 1 / 1.5) / 2)
    assert (report["gflops"], report["baseline_gflops"]) == (1.0, 2.0)
    assert report["pictures_per_second"] == 2.0 if concurrency == 1 else report["pictures_per_second"] > 2
    assert report["classes"]["ball"]["pq"] is None


def test_predictions_on_disk_of_every_kind(tmp_path: Path) -> None:
    """COCO's truth handed in as the prediction: everything is 1, and what is taken away is missing from the figures."""
    coco, mine = tmp_path / "coco", tmp_path / "mine"
    write_coco(coco)
    mine.mkdir()
    index = json.loads((coco / "annotations" / "panoptic_val2017.json").read_text())
    infos = [{"id": s["id"], "category_id": s["category_id"]} for s in index["annotations"][0]["segments_info"] if not s["iscrowd"]]
    ids = np.asarray(Image.open(coco / "annotations" / "panoptic_val2017" / "000000000001.png")).astype(int) @ [1, 256, 65536]
    ids[ids == 300] = 0  # the crowd
    save_ids(mine / "panoptic" / "1.png", ids)
    write_json(mine / "panoptic.json", {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": infos}]})
    rows = json.loads((coco / "annotations" / "instances_val2017.json").read_text())["annotations"]
    results = [{k: row[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.9} for row in rows if not row["iscrowd"]]
    write_json(mine / "results.json", results)
    report = figures(tmp_path, "--data", coco, "--predictions", mine)
    for name in ("pq", "sq", "rq", "pq_things", "pq_stuff", "miou", "ar100", "ar_small"):
        assert report[name] == (1.0 if name != "miou" else report[name])
    assert report["ap"] == pytest.approx(1.0)
    assert report["ap_large"] is None
    assert report["classes"]["dog"]["ap"] == pytest.approx(1.0)
    assert report["classes"]["person"]["iou"] == pytest.approx(100 / 160)  # the crowd's pixels are people too
    assert "gflops" not in report
    shutil.rmtree(mine / "panoptic")
    (mine / "panoptic.json").unlink()
    assert "pq" not in figures(tmp_path, "--data", coco, "--predictions", mine / "results.json")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([{"image_id": 7, "category_id": 1}], ["[0] is of the image 7"]),
        ([{"image_id": 1, "category_id": 1, "segmentation": {"size": [40, 60], "counts": [2400]}}], ["[0] has no 'score'", "AP needs"]),
        ([{"image_id": 1, "category_id": 4, "score": 1, "segmentation": []}], ["[0] is of category 4"]),
        ([{"image_id": 1, "category_id": 1, "score": 1, "bbox": []}], ["[0] has no 'segmentation'", "Boxes alone"]),
        ({"annotations": [{"image_id": 1, "file_name": "1.png"}]}, ["annotations[0] has no 'segments_info'"]),
        ({"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": []}]}, ["1.png is missing"]),
        ({}, ["no list 'annotations'"]),
    ],
)
def test_malformed_predictions_are_named(tmp_path: Path, content: Any, parts: list[str]) -> None:
    write_coco(tmp_path / "coco")
    write_json(tmp_path / "results.json", content)
    result = run("--data", tmp_path / "coco", "--predictions", tmp_path / "results.json")
    assert result.exit_code == 1
    for part in parts:
        assert part in result.output


def test_panoptic_predictions_must_be_whole(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    save_ids(tmp_path / "p" / "1.png", np.full((40, 60), 4))
    for segments, message in (([], "has the id 4, which segments_info does not list"), ([4, 5], "has no pixel of the id 5")):
        rows = [{"id": i, "category_id": 1} for i in segments]
        write_json(tmp_path / "p.json", {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": rows}]})
        assert message in run("--data", tmp_path / "coco", "--predictions", tmp_path / "p.json").output


def test_semantic_predictions_use_the_numbers_of_the_data(tmp_path: Path) -> None:
    ade = tmp_path / "ade"
    save_picture(ade / "images" / "validation" / "ADE_val_00000001.jpg", 2, 2)
    save_map(ade / "annotations" / "validation" / "ADE_val_00000001.png", np.array([[0, 1], [2, 2]]))
    save_map(tmp_path / "one" / "ADE_val_00000001.png", np.array([[9, 1], [2, 1]]))
    save_map(tmp_path / "zero" / "ADE_val_00000001.png", np.array([[9, 0], [1, 0]]))
    reports = [figures(tmp_path, "--data", ade, "--predictions", tmp_path / "one")]
    reports.append(figures(tmp_path, "--data", ade, "--predictions", tmp_path / "zero", "--prediction-offset", 0))
    for report in reports:
        assert report["miou"] == 0.5
        assert report["classes"]["wall"]["iou"] == 0.5
        assert report["pixel_accuracy"] == pytest.approx(2 / 3)
    assert "has no PNG for the picture ADE_val_00000001" in run("--data", ade, "--predictions", NUCLEI / "panoptic_val").output


def test_classes_are_matched_by_name() -> None:
    model = (Category(0, "window ", True), Category(1, "road, route", False), Category(2, "cup", True), Category(3, "ufo", True))
    data = (Category(40, "Window", True), Category(21, "road", False), Category(7, "mug", True), Category(9, "sea", False))
    match = match_classes(model, data, {"cup": "mug"})
    assert match.to_data == {0: 40, 1: 21, 2: 7}
    assert (match.unjudged, match.unasked) == (("sea",), ("ufo",))
    assert [category.id for category in match.judged] == [40, 21, 7]
    with pytest.raises(DataError, match=r"no class in common.*mapping file"):
        match_classes(model, data[3:])
    with pytest.raises(DataError, match="the mapping names 'mugs', which the data set does not have"):
        match_classes(model, data, {"cup": "mugs"})


def test_segments_of_the_model_become_a_map_of_the_data() -> None:
    ids = truth().ids
    segments = []
    for i, category in enumerate(SMALL_CATEGORIES[:3], start=1):
        mask = encode(ids == i)
        area, bbox = measure(mask)
        segments.append(Segment(i, category.id, category.name, True, 0.9, bbox, area, mask))
    result = Segmentation("panoptic", (20, 30), tuple(segments))
    first, second, third = (category.id for category in SMALL_CATEGORIES[:3])
    both = panoptic_map(result, {first: 50, second: 50}, frozenset({50}))  # two classes of the model are one of the data's stuff
    assert both.segments == (PanopticSegment(1, 50),)
    assert np.array_equal(both.ids, np.where(ids == 3, 0, 1))
    apart = panoptic_map(result, {first: 50, third: 51}, frozenset())
    assert [segment.category_id for segment in apart.segments] == [50, 51]


def test_classes_that_the_model_lacks_are_void(small_checkpoint: Path, tmp_path: Path) -> None:
    write_coco(tmp_path)
    report = figures(tmp_path, "--data", tmp_path, "--checkpoint", small_checkpoint)
    assert list(report["classes"]) == ["dog"]
    assert "the model lacks 'person', 'rug-merged', which count as void" in " ".join(report["notes"])
    assert report["gflops"] > 0
    assert report["pictures_per_second"] > 0
    assert report["pq_stuff"] is None


def test_pictures_are_oriented_as_in_the_service(small_checkpoint: Path, tmp_path: Path) -> None:
    write_coco(tmp_path)
    path = tmp_path / "val2017" / "000000000001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    result = run("--data", tmp_path, "--checkpoint", small_checkpoint)
    assert "the result is 60 x 40, its annotation 40 x 60" in result.output
    assert "turned by its EXIF orientation" in result.output
    path.write_bytes(path.read_bytes()[:400])
    assert f"{path}: the picture" in run("--data", tmp_path, "--checkpoint", small_checkpoint).output


def test_json_has_no_nan() -> None:
    assert json.loads(valid_json({"a": float("nan"), "b": [float("inf"), 1.5]})) == {"a": None, "b": [None, 1.5]}


def test_a_data_set_of_things_alone_gives_valid_json(tmp_path: Path) -> None:
    save_picture(tmp_path / "val" / "a.png", 8, 8)
    ids = np.ones((8, 8), int)
    for folder in (tmp_path / "panoptic_val", tmp_path / "mine" / "panoptic"):
        save_ids(folder / "a.png", ids)
    row = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1}]}
    categories = [{"id": 1, "name": "cell", "isthing": 1}, {"id": 2, "name": "dust", "isthing": 1}]
    index = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [row], "categories": categories}
    write_json(tmp_path / "panoptic_val.json", index)
    write_json(tmp_path / "mine" / "panoptic.json", {"annotations": [row]})
    report = figures(tmp_path, "--data", tmp_path, "--predictions", tmp_path / "mine")
    assert (report["pq"], report["pq_things"], report["pq_stuff"]) == (1.0, 1.0, None)
    assert report["classes"]["dust"]["pq"] is None


def test_the_command_explains_itself(small_checkpoint: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([], "either a data set"),
        (["--data", "nowhere"], "no data set at nowhere"),
        (["--data", NUCLEI, "--checkpoint", small_checkpoint], "no class in common"),
        (["--data", NUCLEI, "--checkpoint", small_checkpoint, "--url", "http://127.0.0.1:1"], "name one of --checkpoint, --url"),
        (["--data", NUCLEI, "--url", "http://127.0.0.1:9"], "no answer from http://127.0.0.1:9"),
        (["--data", NUCLEI, "--predictions", tmp_path], "has no known predictions"),
    ):
        result = run(*arguments)
        assert result.exit_code != 0
        assert message in result.output
    assert "Cityscapes" in run("--help").output


@pytest.mark.slow
def test_limit_and_drawn_scenes_are_evaluated(tmp_path: Path) -> None:
    report = figures(tmp_path, "--data", NUCLEI, "--limit", 2)
    assert (report["pictures"], report["layout"]) == (2, "COCO panoptic")
    assert 0 < report["classes"]["nucleus"]["ap"] < 1
    assert report["baseline_gflops"] > report["gflops"]
    scenes = figures(tmp_path, "--scenes", 2, "--no-boundary")
    assert scenes["pq"] > 0.3
    assert "boundary_iou" not in scenes


@pytest.mark.slow
def test_the_embedded_model_finds_nuclei(tmp_path: Path) -> None:
    """The promise of the documentation, on the whole validation split and at the model's own thresholds."""
    report = figures(tmp_path, "--data", NUCLEI, "--split", "val")
    nucleus = report["classes"]["nucleus"]
    assert report["pictures"] == 60
    assert nucleus["union_iou"] >= 0.60
    assert nucleus["union_iou_per_picture"] >= 0.60
    assert nucleus["found"] > 0.5


def test_a_data_set_for_other_tasks_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path)
    dataset = open_dataset(tmp_path / "annotations" / "instances_val2017.json")
    with pytest.raises(DataError, match="annotation for instance; the results are panoptic alone"):
        evaluate(dataset, Answers([]), dataset.categories, progress=False)
    assert replace(dataset, pictures=dataset.pictures[:1]).tasks == ("instance",)


@pytest.mark.slow
def test_predictions_in_files_are_evaluated_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_coco(tmp_path / "coco")
    write_json(tmp_path / "none.json", [])
    code = "import sys; sys.modules['torch'] = None; from proscale.cli import main; main(sys.argv[1:])"
    arguments = ["evaluate", "--data", str(tmp_path / "coco"), "--predictions", str(tmp_path / "none.json")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ap 0.00" in done.stdout
