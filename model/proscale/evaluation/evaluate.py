"""Run a predictor over annotated pictures and measure: PQ, IoU of classes, found objects."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from proscale.evaluation.panoptic_quality import MATCH_IOU, ClassCount, count_picture, mean_quality
from proscale.predictor import Predictor
from proscale.results import Segmentation, SegmentationOptions
from proscale.rle import decode
from proscale.training.sample import Sample


def evaluate(
    predictor: Predictor, samples: Iterable[Sample], total: int, options: SegmentationOptions | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure panoptic results.

    Args:
        samples: pictures with their truth, classes numbered as the predictor's.
        total: how many there are, for the progress bar.
        options: thresholds; the model's own when None.

    Returns:
        `pictures`; `pq`, `pq_things`, `pq_stuff` (means over classes that occur); and per class name under `classes`: `pq`,
        `iou` (of the union of its segments against truth, all pictures together), `iou_per_picture` (mean over pictures
        that have the class), and for things `found` (share of true objects matched at IoU > 0.5, mean over pictures that have any),
        `precision` (share of predicted objects that are matched).
    """
    options = options or SegmentationOptions(tasks=("panoptic",))
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    areas: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    found: defaultdict[int, list[float]] = defaultdict(list)
    pictures = 0
    index = {category.id: i for i, category in enumerate(predictor.categories)}
    for sample in tqdm(samples, total=total, unit="picture", disable=not progress):
        result = predictor.segment([sample.image], [options])[0].results["panoptic"]
        predicted, predicted_classes = to_map(result), [index[segment.category_id] for segment in result.segments]
        own: defaultdict[int, ClassCount] = defaultdict(ClassCount)
        true_classes = sample.classes.tolist()
        count_picture(own, predicted, predicted_classes, sample.ids, true_classes, sample.crowd.tolist())
        pictures += 1
        for label, count in own.items():
            for name in ("iou", "true_positives", "false_positives", "false_negatives"):
                setattr(counts[label], name, getattr(counts[label], name) + getattr(count, name))
            if count.true_positives + count.false_negatives:
                found[label].append(count.true_positives / (count.true_positives + count.false_negatives))
        for label in {*true_classes, *predicted_classes}:
            ours, theirs = _union(predicted, predicted_classes, label), _union(sample.ids, true_classes, label)
            areas[label].append((int((ours & theirs).sum()), int((ours | theirs).sum())))
    return _report(predictor, pictures, counts, areas, found)


def to_map(result: Segmentation) -> NDArray[np.int32]:
    """Panoptic segments as one map (H, W): 0 = void, i = the i-th segment."""
    ids = np.zeros(result.size, np.int32)
    for i, segment in enumerate(result.segments, start=1):
        ids[decode(segment.segmentation)] = i
    return ids


def _union(ids: NDArray[np.int32], classes: Sequence[int], label: int) -> NDArray[np.bool_]:
    table = np.array([False, *(c == label for c in classes)])
    mask: NDArray[np.bool_] = table[ids]
    return mask


def _report(
    predictor: Predictor,
    pictures: int,
    counts: Mapping[int, ClassCount],
    areas: Mapping[int, list[tuple[int, int]]],
    found: Mapping[int, list[float]],
) -> dict[str, Any]:
    categories = predictor.categories
    classes = {}
    for label, count in sorted(counts.items()):
        pairs = np.array(areas[label], np.float64)
        entry = {
            "pq": count.quality,
            "iou": float(pairs[:, 0].sum() / max(pairs[:, 1].sum(), 1)),
            "iou_per_picture": float(np.mean(pairs[:, 0] / np.maximum(pairs[:, 1], 1))),
        }
        if categories[label].isthing:
            predicted = count.true_positives + count.false_positives
            entry["found"] = float(np.mean(found[label])) if found.get(label) else 0.0
            entry["precision"] = count.true_positives / predicted if predicted else 0.0
        classes[categories[label].name] = {name: round(value, 4) for name, value in entry.items()}
    things = [i for i, category in enumerate(categories) if category.isthing and i in counts]
    stuff = [i for i, category in enumerate(categories) if not category.isthing and i in counts]
    means = {
        "pq": mean_quality(counts, [*things, *stuff]),
        "pq_things": mean_quality(counts, things),
        "pq_stuff": mean_quality(counts, stuff),
    }
    return {"pictures": pictures, "match_iou": MATCH_IOU} | {name: round(value, 4) for name, value in means.items()} | {"classes": classes}
