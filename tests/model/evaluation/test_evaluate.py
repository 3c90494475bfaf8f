"""Evaluation of a predictor that knows the answer, and of the embedded model."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.builders import SMALL_CATEGORIES

from proscale.cli import main
from proscale.evaluation.evaluate import evaluate, to_map
from proscale.labels import Category
from proscale.predictor import Predictor
from proscale.results import Segment, Segmentation
from proscale.rle import encode, measure
from proscale.training.sample import Sample

NUCLEI = Path(__file__).parents[3] / "data" / "nuclei"


def truth() -> Sample:
    ids = np.ones((20, 30), np.int32)
    ids[2:8, 3:9], ids[10:18, 12:24] = 2, 3
    return Sample(np.zeros((20, 30, 3), np.uint8), ids, np.array([3, 0, 1]), np.zeros(3, bool))


def segmentation(ids: np.ndarray, classes: list[int], categories: tuple[Category, ...] = SMALL_CATEGORIES) -> Segmentation:
    segments = []
    for i, label in enumerate(classes, start=1):
        mask = encode(ids == i)
        area, bbox = measure(mask)
        category = categories[label]
        segments.append(Segment(i, category.id, category.name, category.isthing, 0.9, bbox, area, mask))
    return Segmentation("panoptic", ids.shape, tuple(segments))


def test_what_is_measured(small_predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def __init__(self, result: Segmentation) -> None:
            self.results = {"panoptic": result}

    sample = truth()
    half_found = sample.ids.copy()
    half_found[10:18, 12:24] = 1  # the dog is missed, the grass takes its place
    answers = iter([Answer(segmentation(sample.ids, [3, 0, 1])), Answer(segmentation(half_found, [3, 0]))])
    monkeypatch.setattr(small_predictor, "segment", lambda images, options: [next(answers)])
    report = evaluate(small_predictor, [sample, sample], 2, progress=False)
    assert report["pictures"] == 2
    assert report["classes"]["cat"] == {"pq": 1.0, "iou": 1.0, "iou_per_picture": 1.0, "found": 1.0, "precision": 1.0}
    assert report["classes"]["dog"] == {"pq": round(1 / 1.5, 4), "iou": 0.5, "iou_per_picture": 0.5, "found": 0.5, "precision": 1.0}
    grass = (20 * 30 - 36 - 96) / (20 * 30 - 36)
    assert report["classes"]["grass"]["pq"] == pytest.approx((1 + grass) / 2, abs=1e-4)
    assert report["pq_stuff"] == report["classes"]["grass"]["pq"]
    assert report["pq_things"] == pytest.approx((1 + 1 / 1.5) / 2, abs=1e-4)


def test_segments_become_a_map() -> None:
    ids = truth().ids
    assert np.array_equal(to_map(segmentation(ids, [3, 0, 1])), ids)


@pytest.mark.slow
def test_the_embedded_model_finds_nuclei(tmp_path: Path) -> None:
    """The promise of the documentation, on the whole validation split and at the model's own thresholds."""
    out = tmp_path / "report.json"
    result = CliRunner().invoke(main, ["evaluate", "--data", str(NUCLEI), "--split", "val", "--json", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["pictures"] == 60
    assert report["classes"]["nucleus"]["iou"] >= 0.60
    assert report["classes"]["nucleus"]["iou_per_picture"] >= 0.60
    assert report["classes"]["nucleus"]["found"] > 0.5


def test_the_command_explains_itself(small_checkpoint: Path) -> None:
    for arguments, message in (
        ([], "either a data set"),
        (["--data", "nowhere"], "data folder nowhere does not exist"),
        (["--data", str(NUCLEI), "--checkpoint", str(small_checkpoint)], "does not know: nucleus, background"),
    ):
        result = CliRunner().invoke(main, ["evaluate", *arguments])
        assert result.exit_code != 0
        assert message in result.output
