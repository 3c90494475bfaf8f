"""AP by hotcoco and by pycocotools: the same to the last digit, on cases made to tell them apart."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from proscale.datasets import Instance
from proscale.evaluation.average_precision import InstanceJudge, ScoredInstance
from proscale.labels import Category
from proscale.rle import encode

CATEGORIES = (Category(90, "cat", True), Category(3, "dog", True), Category(17, "hen", True))
SIZE = (120, 130)


def random_mask(rng: np.random.Generator, least: int = 1) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    top, left = rng.integers(0, 100), rng.integers(0, 100)
    height, width = rng.choice([least, 5, 12, 40, 99], 2)
    mask[top : top + height, left : left + width] = True
    return mask


def fill(judge: InstanceJudge, seed: int) -> None:
    """Crowds over things, ties in score and in IoU, duplicates, empty pictures, empty masks, stated areas, 130 predictions."""
    rng = np.random.default_rng(seed)
    for picture in range(6):
        masks = [random_mask(rng) for _ in range(0 if picture == 2 else rng.integers(1, 6))]
        truth = []
        for mask in masks:
            area = float(rng.integers(1, 12000)) if rng.random() < 0.3 else None
            truth.append(Instance(int(rng.choice([90, 3])), encode(mask), bool(rng.random() < 0.25), area))
        if truth and rng.random() < 0.5:
            truth.append(truth[0])
        found = []
        for _ in range(0 if picture == 3 else 130 if picture == 4 else rng.integers(0, 12)):
            mask = random_mask(rng) if not masks or rng.random() < 0.4 else masks[rng.integers(len(masks))].copy()
            if rng.random() < 0.5:
                mask[: rng.integers(0, 120)] = False  # half of a mask, at times exactly, at times all of it
            found.append(ScoredInstance(int(rng.choice([90, 3, 17])), float(rng.choice([0.1, 0.5, 0.5, 0.9, rng.random()])), encode(mask)))
        judge.add(SIZE, truth, found)


@pytest.mark.parametrize("seed", range(25))
def test_both_libraries_agree(seed: int) -> None:
    judge = InstanceJudge(CATEGORIES)
    fill(judge, seed)
    assert judge.figures("hotcoco") == judge.figures("pycocotools")


def test_it_equals_the_summary_of_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    judge = InstanceJudge(CATEGORIES)
    fill(judge, 7)
    truth = COCO()
    truth.dataset = {
        "images": judge._images,
        "annotations": [dict(row) for row in judge._truth],
        "categories": [{"id": c.id} for c in CATEGORIES],
    }
    truth.createIndex()
    reference = COCOeval(truth, truth.loadRes([dict(row) for row in judge._found]), "segm")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    figures, per_class = judge.figures()
    for value, expected in zip(figures.values(), reference.stats, strict=True):
        assert value == (None if expected == -1 else expected)
    assert per_class[17] is None  # it has no true object
    assert capsys.readouterr().out.count("Average Precision") == 6


def test_no_predictions_and_no_objects_are_handled() -> None:
    mask = encode(np.ones(SIZE, bool))
    for library in ("hotcoco", "pycocotools"):
        judge = InstanceJudge(CATEGORIES)
        assert set(judge.figures(library)[0].values()) == {None}
        judge.add(SIZE, [], [ScoredInstance(3, 0.5, mask)])
        assert judge.figures(library)[0]["ap"] is None
        judge = InstanceJudge(CATEGORIES)
        judge.add(SIZE, [Instance(3, mask)], [])
        figures = judge.figures(library)[0]
        assert (figures["ap"], figures["ap_large"], figures["ap_small"]) == (0.0, 0.0, None)


def test_an_object_is_found_whatever_its_id() -> None:
    judge = InstanceJudge(CATEGORIES)
    mask = encode(random_mask(np.random.default_rng(0), 40))
    judge.add(SIZE, [Instance(3, mask)], [ScoredInstance(3, 0.5, mask)])
    assert judge.figures()[0]["ap"] == pytest.approx(1.0)
