"""AP of instance masks as Cityscapes defines it: another measure than COCO's, and the one that figures on Cityscapes are published in.

As its published evaluation has it (cityscapesScripts 2.3.0), also where that surprises:
- objects of fewer than 100 pixels are not asked for, nor are groups; a prediction that lies on them or on void by more than the threshold
  is no mistake (a group of fewer than 100 pixels counts twice there);
- several predictions may match one object: the surest is right, the others are wrong; matches are looked for at IoU above the threshold;
- precision is not made monotonous; it is summed over recall with steps half to either side of every score, with a precision of 1 at a
  recall of 0;
- there is no limit to the number of predictions.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proscale.datasets import PanopticMap
from proscale.evaluation.average_precision import ScoredInstance
from proscale.labels import Category
from proscale.rle import decode

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100


@dataclass(frozen=True)
class _Object:
    pixels: int
    group: bool

    @property
    def asked(self) -> bool:
        return not self.group and self.pixels >= MIN_PIXELS

    @property
    def excuses(self) -> int:
        """How often its pixels excuse a prediction."""
        return self.group + (self.pixels < MIN_PIXELS)


@dataclass(frozen=True)
class _Found:
    pixels: int
    score: float
    excused: int
    """Pixels on void."""
    common: dict[int, int]
    """Place of an object of its class -> pixels in common."""

    def iou(self, place: int, true: _Object) -> float:
        common = self.common.get(place, 0)
        return common / (true.pixels + self.pixels - common)


@dataclass(frozen=True)
class _Picture:
    """One class in one picture."""

    objects: tuple[_Object, ...]
    found: tuple[_Found, ...]


class CityscapesJudge:
    """Takes pictures one by one; keeps counts, no masks."""

    def __init__(self, categories: Sequence[Category]) -> None:
        """Args: the things that are judged."""
        self.categories = tuple(categories)
        self.pictures = 0
        self._pictures: defaultdict[int, list[_Picture]] = defaultdict(list)

    def add(self, truth: PanopticMap, void: NDArray[np.bool_], found: Sequence[ScoredInstance]) -> None:
        """Add one picture.

        Args:
            truth: things, groups of them as crowds.
            void: (H, W), pixels of classes outside the evaluation, but not of their objects.
            found: masks of the truth's size.
        """
        self.pictures += 1
        values, areas = np.unique(truth.ids, return_counts=True)
        pixels = dict(zip(values.tolist(), areas.tolist(), strict=True))
        for category in self.categories:
            segments = [s for s in truth.segments if s.category_id == category.id and s.id in pixels]
            objects = tuple(_Object(pixels[s.id], s.iscrowd) for s in segments)
            place = {segment.id: i for i, segment in enumerate(segments)}
            # One mask at a time: a hundred of a street's size are 200 MB.
            own = (_found(one, truth, void, place) for one in found if one.category_id == category.id)
            self._pictures[category.id].append(_Picture(objects, tuple(one for one in own if one.pixels)))

    def figures(self) -> tuple[dict[str, float | None], dict[int, float | None]]:
        """`cityscapes_ap` and `cityscapes_ap50` over all classes, and AP per category id; None where there is nothing to find."""
        by_class = {category.id: [_precision(self._pictures[category.id], t) for t in THRESHOLDS] for category in self.categories}
        asked = [[ap for ap in values if ap is not None] for values in by_class.values()]
        asked = [values for values in asked if values]
        figures = {
            "cityscapes_ap": float(np.mean(asked)) if asked else None,
            "cityscapes_ap50": float(np.mean([values[0] for values in asked])) if asked else None,
        }
        return figures, {c: float(np.mean(values)) if None not in values else None for c, values in by_class.items()}  # type: ignore[arg-type]  # no None


def _found(one: ScoredInstance, truth: PanopticMap, void: NDArray[np.bool_], place: dict[int, int]) -> _Found:
    mask = decode(one.mask).astype(bool)
    values, areas = np.unique(truth.ids[mask], return_counts=True)
    common = {place[value]: area for value, area in zip(values.tolist(), areas.tolist(), strict=True) if value in place}
    return _Found(int(mask.sum()), one.score, int((mask & void).sum()), common)


def _precision(pictures: Sequence[_Picture], threshold: float) -> float | None:
    """AP of one class at one threshold; None without an object to find."""
    right, wrong = list[float](), list[float]()
    missed = 0
    for picture in pictures:
        matched = [[f.score for f in picture.found if f.iou(i, o) > threshold] for i, o in enumerate(picture.objects) if o.asked]
        missed += sum(not scores for scores in matched)
        right += [max(scores) for scores in matched if scores]
        wrong += [score for scores in matched if scores for score in sorted(scores)[:-1]]
        wrong += [found.score for found in picture.found if _is_mistake(found, picture.objects, threshold)]
    if missed + len(right) == 0:
        return None
    if not right:
        return 0.0
    return _area(np.array(right), np.array(wrong), missed)


def _is_mistake(found: _Found, objects: Sequence[_Object], threshold: float) -> bool:
    """Whether a prediction matches nothing of its class, and lies mostly on what is asked for."""
    if any(found.iou(i, true) > threshold for i, true in enumerate(objects)):
        return False
    excused = found.excused + sum(found.common.get(i, 0) * true.excuses for i, true in enumerate(objects))
    return excused / found.pixels <= threshold


def _area(right: NDArray[np.float64], wrong: NDArray[np.float64], missed: int) -> float:
    """Precision over recall, summed. Args: scores of right and wrong predictions, and how many objects none has found."""
    scores = np.unique(np.concatenate([right, wrong]))  # rising: recall falls
    kept_right = np.array([(right >= score).sum() for score in scores])
    kept = kept_right + np.array([(wrong >= score).sum() for score in scores])
    precision, recall = kept_right / kept, kept_right / (len(right) + missed)
    precision = np.append(precision, 1.0)
    recall = np.concatenate([recall[:1], recall, [0.0, 0.0]])
    return float(precision @ (recall[:-2] - recall[2:]) / 2)
