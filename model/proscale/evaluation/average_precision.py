"""AP and AR of instance masks as COCO defines them: pycocotools, or hotcoco, which gives the same digits sooner."""

from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any, Literal

import numpy as np

from proscale.datasets import Instance
from proscale.labels import Category
from proscale.results import RLE
from proscale.rle import measure

Library = Literal["pycocotools", "hotcoco"]
MAX_DETECTIONS = (1, 10, 100)
_SIZES = ("", "_small", "_medium", "_large")


@dataclass(frozen=True)
class ScoredInstance:
    """One predicted object."""

    category_id: int
    score: float
    mask: RLE


class InstanceJudge:
    """Truth and predictions of all pictures as RLE, and the figures at the end.

    True objects get new ids from 1: in COCO's evaluation an object of id 0 can never be found, and of two with one id the first is
    lost. This is the one difference to giving it the file as it is.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, size: tuple[int, int], truth: Iterable[Instance], found: Iterable[ScoredInstance]) -> None:
        """Add one picture of (height, width) pixels."""
        image = len(self._images) + 1
        self._images.append({"id": image, "height": size[0], "width": size[1]})
        for true in truth:
            area, bbox = measure(true.mask)
            self._truth.append(
                {
                    "id": len(self._truth) + 1,
                    "image_id": image,
                    "category_id": true.category_id,
                    "segmentation": _plain(true.mask),
                    "area": float(area) if true.area is None else true.area,
                    "bbox": list(bbox),
                    "iscrowd": int(true.iscrowd),
                }
            )
        for one in found:
            row = {"image_id": image, "category_id": one.category_id, "segmentation": _plain(one.mask), "score": one.score}
            self._found.append(row)

    def figures(self, library: Library | None = None) -> tuple[dict[str, float | None], dict[int, float | None]]:
        """AP and AR over all classes, and AP per category id.

        Args:
            library: which does the work; None: hotcoco where it is installed.

        Returns:
            `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar1`, `ar10`, `ar100`, `ar_small`, `ar_medium`, `ar_large`,
            in 0..1; None where there is no true object to find.
        """
        if not self._images or not self.categories:
            return dict.fromkeys(_names()), {category.id: None for category in self.categories}
        precision, recall, thresholds = self._evaluate(library or ("hotcoco" if find_spec("hotcoco") else "pycocotools"))
        figures: dict[str, float | None] = {}
        for area, suffix in enumerate(_SIZES):
            figures["ap" + suffix] = _mean(precision[:, :, :, area, -1])
            if not suffix:
                for name, threshold in (("ap50", 0.5), ("ap75", 0.75)):
                    figures[name] = _mean(precision[np.isclose(thresholds, threshold)][..., area, -1])
        for place, most in enumerate(MAX_DETECTIONS):
            figures[f"ar{most}"] = _mean(recall[:, :, 0, place])
        for area, suffix in enumerate(_SIZES[1:], 1):
            figures["ar" + suffix] = _mean(recall[:, :, area, -1])
        ids = sorted(category.id for category in self.categories)
        return figures, {category: _mean(precision[:, :, k, 0, -1]) for k, category in enumerate(ids)}

    def _evaluate(self, library: Library) -> tuple[Any, Any, Any]:
        """Precision (thresholds, recalls, classes, sizes, limits), recall without the second of these, and the IoU thresholds."""
        tables = import_module("hotcoco" if library == "hotcoco" else "pycocotools.coco")
        judges = import_module("hotcoco" if library == "hotcoco" else "pycocotools.cocoeval")
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        dataset = {"images": self._images, "annotations": self._truth, "categories": categories}
        empty = dataset | {"annotations": []}
        with redirect_stdout(StringIO()):
            truth = _table(tables.COCO, dataset, library)
            # The libraries write into what they are given.
            found = truth.loadRes([dict(row) for row in self._found]) if self._found else _table(tables.COCO, empty, library)
            judge = judges.COCOeval(truth, found, "segm")
            judge.params.maxDets = list(MAX_DETECTIONS)
            judge.evaluate()
            judge.accumulate()
        return np.asarray(judge.eval["precision"]), np.asarray(judge.eval["recall"]), np.asarray(judge.params.iouThrs)


def _table(kind: Any, dataset: dict[str, Any], library: Library) -> Any:
    if library == "hotcoco":
        return kind(dataset)
    table = kind()
    table.dataset = dataset
    table.createIndex()
    return table


def _plain(mask: RLE) -> dict[str, Any]:
    return {"size": list(mask.size), "counts": mask.counts}


def _names() -> list[str]:
    return ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]


def _mean(values: Any) -> float | None:
    """Mean of what is not -1, which stands for "nothing to find"."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else None
