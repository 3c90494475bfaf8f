"""Cityscapes' own AP: by hand, and against its definition written out over pixels and loops."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.miniature import save_map, save_picture, write_json

from proscale.datasets import PanopticMap, PanopticSegment, open_dataset
from proscale.evaluation.average_precision import ScoredInstance
from proscale.evaluation.cityscapes_ap import MIN_PIXELS, THRESHOLDS, CityscapesJudge
from proscale.evaluation.evaluate import evaluate
from proscale.evaluation.from_files import FileSource
from proscale.labels import Category
from proscale.rle import encode

CAR, BIKE = 26, 33
CATEGORIES = (Category(CAR, "car", True), Category(BIKE, "bicycle", True))
Found = list[tuple[int, float, NDArray[np.bool_]]]
Scene = tuple[NDArray[np.int32], NDArray[np.bool_], Found]


def judged(scenes: list[Scene]) -> tuple[dict[str, float | None], dict[int, float | None]]:
    judge = CityscapesJudge(CATEGORIES)
    for ids, void, found in scenes:
        values = [value for value in np.unique(ids).tolist() if value]
        segments = tuple(PanopticSegment(v, v // 1000 if v >= 1000 else v, v < 1000) for v in values)
        judge.add(PanopticMap(ids, segments), void, [ScoredInstance(c, score, encode(mask)) for c, score, mask in found])
    return judge.figures()


def by_definition(scenes: list[Scene], category: int, threshold: float) -> float | None:
    """One class at one threshold, with no more than masks and lists."""
    answers: list[tuple[float, bool]] = []
    missed, asked = 0, 0
    for ids, void, found in scenes:
        objects = {v: ids == v for v in np.unique(ids).tolist() if v and (v // 1000 if v >= 1000 else v) == category}
        own = [(score, mask) for c, score, mask in found if c == category and mask.any()]

        def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
            return (one & other).sum() / (one | other).sum()

        for value, true in objects.items():
            if value < 1000 or true.sum() < MIN_PIXELS:
                continue
            asked += 1
            scores = sorted((score for score, mask in own if iou(true, mask) > threshold), reverse=True)
            answers += [(score, i == 0) for i, score in enumerate(scores)]
            missed += not scores
        for score, mask in own:
            if any(iou(true, mask) > threshold for true in objects.values()):
                continue
            excused = (mask & void).sum()
            for value, true in objects.items():
                excused += (mask & true).sum() * (int(value < 1000) + int(true.sum() < MIN_PIXELS))
            if excused / mask.sum() <= threshold:
                answers.append((score, False))
    if not asked:
        return None
    if not any(right for _, right in answers):
        return 0.0
    points = []
    for limit in sorted({score for score, _ in answers}):
        kept = [right for score, right in answers if score >= limit]
        points.append((sum(kept) / asked, sum(kept) / len(kept)))
    assert asked == missed + sum(right for _, right in answers)
    recalls = [points[0][0], *(recall for recall, _ in points), 0.0, 0.0]
    precisions = [*(precision for _, precision in points), 1.0]
    return sum(p * (recalls[i] - recalls[i + 2]) / 2 for i, p in enumerate(precisions))


def random_scene(rng: np.random.Generator) -> Scene:
    """Boxes on top of each other: objects of two classes, small ones, groups, void; predictions that are shifted copies, and inventions."""
    ids, void = np.zeros((60, 60), np.int32), np.zeros((60, 60), bool)
    void[:, : rng.integers(0, 20)] = True
    found: Found = []
    for number in range(rng.integers(0, 7)):
        top, left, height, width = *rng.integers(0, 45, 2), *rng.integers(4, 22, 2)
        category = int(rng.choice([CAR, BIKE]))
        ids[top : top + height, left : left + width] = category * 1000 + number if rng.random() < 0.75 else category
        for _ in range(rng.integers(0, 3)):
            mask = np.zeros((60, 60), bool)
            y, x = np.maximum(np.array([top, left]) + rng.integers(-3, 4, 2), 0)
            mask[y : y + height, x : x + width] = True
            found.append((int(rng.choice([category, CAR])), float(rng.choice([0.3, 0.5, 0.5, 0.9, rng.random()])), mask))
    return ids, void & (ids == 0), found


@pytest.mark.parametrize("seed", range(12))
def test_against_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(rng.integers(1, 5))]
    figures, per_class = judged(scenes)
    table = [[by_definition(scenes, c.id, t) for t in THRESHOLDS] for c in CATEGORIES]
    asked = [row for row in table if None not in row]
    for category, row in zip(CATEGORIES, table, strict=True):
        assert per_class[category.id] == (None if None in row else pytest.approx(np.mean(row)))
    assert figures["cityscapes_ap"] == (pytest.approx(np.mean(asked)) if asked else None)
    assert figures["cityscapes_ap50"] == (pytest.approx(np.mean([row[0] for row in asked])) if asked else None)


def box(top: int, left: int, height: int = 20, width: int = 20) -> NDArray[np.bool_]:
    mask = np.zeros((60, 60), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_by_hand() -> None:
    ids = np.zeros((60, 60), np.int32)
    ids[box(0, 0)], ids[box(30, 0)], ids[box(0, 30, 9, 9)], ids[box(30, 30)] = 26000, 26001, 26002, CAR
    nothing = np.zeros((60, 60), bool)
    both: Found = [(CAR, 0.9, box(0, 0)), (CAR, 0.8, box(30, 0))]
    assert judged([(ids, nothing, both)])[0]["cityscapes_ap"] == 1.0  # neither the small one nor the group is missed
    excused: Found = [(CAR, 1.0, box(0, 30, 9, 9)), (CAR, 1.0, box(30, 30, 20, 12)), (BIKE, 1.0, box(0, 0))]
    assert judged([(ids, nothing, both + excused)])[1] == {CAR: 1.0, BIKE: None}
    # A second one on the same object is wrong where it is surer than another object's: precision 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    again: Found = [(CAR, 0.85, box(0, 0))]
    expected = 2 / 3 * (1 - 0.5) / 2 + 1 / 2 * (1 - 0.5) / 2 + 1 * 0.5 / 2 + 1 * 0.5 / 2
    assert judged([(ids, nothing, both + again)])[0]["cityscapes_ap50"] == pytest.approx(expected)
    assert judged([(ids, nothing, [])])[0]["cityscapes_ap"] == 0.0
    assert judged([(np.zeros((60, 60), np.int32), nothing, both)])[0]["cityscapes_ap"] is None
    assert judged([(ids, box(0, 0, 60, 60), [(CAR, 1.0, box(45, 45, 9, 9)), *both])])[0]["cityscapes_ap"] == 1.0  # on void


def test_it_is_reported_where_instance_ids_are(tmp_path: Path) -> None:
    stem = "ulm_000000_000001"
    ids = np.full((60, 60), 1, int)  # ego vehicle: void
    ids[box(0, 0)], ids[box(30, 0)], ids[box(0, 30)] = 26000, 29000, 7
    folder = tmp_path / "gtFine" / "val" / "ulm"
    save_map(folder / f"{stem}_gtFine_instanceIds.png", ids, np.uint16)
    save_map(folder / f"{stem}_gtFine_labelIds.png", np.where(ids >= 1000, ids // 1000, ids))
    save_picture(tmp_path / "leftImg8bit" / "val" / "ulm" / f"{stem}_leftImg8bit.png", 60, 60)
    dataset = open_dataset(tmp_path)
    void = dataset.pictures[0].read_cityscapes_void
    assert void is not None
    assert np.array_equal(void(), ids == 1)  # the caravan's pixels are not
    masks = [(box(0, 0), 0.9), (box(30, 0), 0.95), (box(30, 30), 0.99)]  # the car; on the caravan, which excuses nothing; on void
    rows = []
    for mask, score in masks:
        rle = {"size": [60, 60], "counts": encode(mask).counts}
        rows.append({"image_id": stem, "category_id": CAR, "segmentation": rle, "score": score})
    write_json(tmp_path / "mine.json", rows)
    report = evaluate(dataset, FileSource(tmp_path / "mine.json", dataset), dataset.categories, progress=False)
    assert report["cityscapes_ap"] == report["classes"]["car"]["cityscapes_ap"] == pytest.approx(0.5 * 1 / 2)
    assert report["classes"]["person"]["cityscapes_ap"] is None
