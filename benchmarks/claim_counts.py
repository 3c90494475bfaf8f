"""What `claim.py` counts in every picture, and what follows for any sample of pictures: quality, and how far chance can move it.

Counts are kept picture by picture, so that pictures can be drawn again (bootstrap). Two networks are compared on the same draws: that a
picture is hard for both then says nothing about their difference.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.datasets import PanopticMap
from proscale.datasets.annotation import semantic_of
from proscale.evaluation.panoptic_quality import ClassCount, count_picture

Counts = NDArray[np.float64]
"""(pictures, classes, 6): sum of IoU, true positives, false positives, false negatives; pixels in common, pixels together."""
DRAWS = 2000
FIELDS = 6


def count(truth: PanopticMap, found: PanopticMap, semantic: NDArray[np.int32], category_ids: Sequence[int]) -> list[list[float]]:
    """One picture as rows [category, ...the six of `Counts`] of the categories that occur.

    Args:
        semantic: (H, W) category ids found.
    """
    counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
    count_picture(counts, truth, found)
    true = semantic_of(truth)
    known = np.isin(true, category_ids)
    rows = []
    for category in category_ids:
        own, shown = true == category, (semantic == category) & known
        together = int((own | shown).sum())
        if together or category in counts:
            c = counts[category]
            matched = [round(c.iou, 4), c.true_positives, c.false_positives, c.false_negatives]
            rows.append([category, *matched, int((own & shown).sum()), together])
    return rows


def as_array(pictures: Sequence[Sequence[Sequence[float]]], category_ids: Sequence[int]) -> Counts:
    """The rows of all pictures as one array."""
    place = {category: i for i, category in enumerate(category_ids)}
    counts = np.zeros((len(pictures), len(category_ids), FIELDS))
    for i, rows in enumerate(pictures):
        for category, *values in rows:
            counts[i, place[int(category)]] = values
    return counts


def panoptic_quality(sums: Counts) -> NDArray[np.float64]:
    """PQ, mean over the classes that occur. Args: sums over pictures (..., classes, 6). Returns (...)."""
    weight = sums[..., 1] + 0.5 * (sums[..., 2] + sums[..., 3])
    return _mean_of_present(np.divide(sums[..., 0], weight, out=np.zeros_like(weight), where=weight > 0), weight > 0)


def mean_iou(sums: Counts) -> NDArray[np.float64]:
    """IoU of semantic maps, mean over the classes that occur. Args and result as `panoptic_quality`."""
    together = sums[..., 5]
    return _mean_of_present(np.divide(sums[..., 4], together, out=np.zeros_like(together), where=together > 0), together > 0)


def draws(sources: Sequence[str], seed: int = 0) -> NDArray[np.float64]:
    """How often each picture is in each bootstrap sample, (DRAWS, pictures): as many of a source as there are."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((DRAWS, len(sources)))
    for source in dict.fromkeys(sources):
        places = np.flatnonzero(np.array(sources) == source)
        weights[:, places] = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), DRAWS)
    return weights


def resampled(counts: Counts, weights: NDArray[np.float64]) -> Counts:
    """Sums of every bootstrap sample, (DRAWS, classes, 6)."""
    sums: Counts = np.tensordot(weights, counts, axes=1)
    return sums


def interval(values: NDArray[np.float64]) -> list[float]:
    """The middle 95%."""
    low, high = np.percentile(values, (2.5, 97.5))
    return [round(float(low), 4), round(float(high), 4)]


def seed_deviation(by_row: Sequence[Sequence[float]]) -> tuple[float, int]:
    """How much a value varies from seed to seed: standard deviation pooled over networks, and its degrees of freedom."""
    freedom = sum(len(values) - 1 for values in by_row)
    squares = sum(float(((np.array(values) - np.mean(values)) ** 2).sum()) for values in by_row)
    return (float(np.sqrt(squares / freedom)) if freedom else float("nan")), freedom


def summary(rows: Sequence[dict[str, Any]], sources: Sequence[str], category_ids: Sequence[int], baseline: str) -> dict[str, Any]:
    """Per network the figures over all its seeds, with intervals, and the difference to the baseline on the same pictures and seeds.

    Args:
        rows: `row`, `seed` and `pictures` (as `count` gives them) of every run.
    """
    from scipy.stats import t

    weights = draws(sources)
    counts = {(row["row"], row["seed"]): as_array(row["pictures"], category_ids) for row in rows}
    names, result = list(dict.fromkeys(row["row"] for row in rows)), dict[str, Any]()
    for metric, quality in (("pq", panoptic_quality), ("miou", mean_iou)):
        value = {key: float(quality(c.sum(0))) for key, c in counts.items()}
        drawn = {key: quality(resampled(c, weights)) for key, c in counts.items()}
        seeds = {name: sorted(seed for row, seed in counts if row == name) for name in names}
        deviation, freedom = seed_deviation([[value[name, seed] for seed in seeds[name]] for name in names])
        result[f"{metric}_seed_deviation"], result["seed_freedom"] = round(deviation, 4), freedom
        for name in names:
            own = result.setdefault("networks", {}).setdefault(name, {"seeds": seeds[name]})
            own[metric] = round(float(np.mean([value[name, seed] for seed in seeds[name]])), 4)
            own[f"{metric}_by_seed"] = [round(value[name, seed], 4) for seed in seeds[name]]
            own[f"{metric}_over_pictures"] = interval(np.mean([drawn[name, seed] for seed in seeds[name]], axis=0))
            both = [seed for seed in seeds[name] if (baseline, seed) in counts]
            if name == baseline or not both:
                continue
            own[f"{metric}_difference"] = round(float(np.mean([value[name, s] - value[baseline, s] for s in both])), 4)
            own[f"{metric}_difference_over_pictures"] = interval(np.mean([drawn[name, s] - drawn[baseline, s] for s in both], axis=0))
            if freedom:
                # Two means of so many seeds each, whose deviation is the pooled one.
                half = float(t.ppf(0.975, freedom)) * deviation * np.sqrt(2 / len(both))
                own[f"{metric}_difference_half_width_over_seeds"] = round(float(half), 4)
    return result


def _mean_of_present(values: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = (values * present).sum(-1) / np.maximum(present.sum(-1), 1)
    return mean
