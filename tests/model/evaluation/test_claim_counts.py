"""What `benchmarks/claim.py` says of its runs: PQ from counts, intervals that hold what they should."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from proscale.datasets import PanopticMap, PanopticSegment
from proscale.evaluation.panoptic_quality import ClassCount, count_picture, mean_quality

IDS = [3, 7]


@pytest.fixture(scope="module")
def counts() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "claim_counts.py"
    spec = importlib.util.spec_from_file_location("claim_counts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(rng: np.random.Generator) -> tuple[PanopticMap, PanopticMap]:
    """Stripes, and the same with some pixels changed."""
    ids = np.repeat(np.arange(1, 7), 4)[None].repeat(8, 0).astype(np.int32)
    segments = tuple(PanopticSegment(i, IDS[i % 2]) for i in range(1, 7))
    found = np.where(rng.random(ids.shape) < rng.uniform(0, 0.6), np.roll(ids, 4, 1), ids).astype(np.int32)
    return PanopticMap(ids, segments), PanopticMap(found, segments)


def test_sums_over_pictures_give_the_quality_of_all(counts: ModuleType) -> None:
    rng, total, rows = np.random.default_rng(0), {i: ClassCount() for i in IDS}, []
    for _ in range(5):
        truth, found = picture(rng)
        count_picture(total, truth, found)
        semantic = np.array([0, *(s.category_id for s in found.segments)])[found.ids]
        rows.append(counts.count(truth, found, semantic, IDS))
    array = counts.as_array(rows, IDS)
    assert array.shape == (5, 2, 6)
    assert counts.panoptic_quality(array.sum(0)) == pytest.approx(mean_quality(total, IDS)["pq"], abs=1e-4)
    assert 0 < counts.mean_iou(array.sum(0)) < 1
    # Every picture once is the sample itself.
    assert counts.panoptic_quality(counts.resampled(array, np.ones((1, 5)))) == pytest.approx(counts.panoptic_quality(array.sum(0)))


def test_samples_are_as_large_as_each_source(counts: ModuleType) -> None:
    weights = counts.draws(["nuclei"] * 3 + ["scenes"] * 5)
    assert (weights[:, :3].sum(1) == 3).all()
    assert (weights[:, 3:].sum(1) == 5).all()
    assert weights.std() > 0


@pytest.mark.slow
def test_a_network_against_itself_and_against_a_better_one(counts: ModuleType) -> None:
    """Half of the objects are found by one, three quarters by the other, all at an IoU of 0.8."""

    def rows(share: float, seed: int) -> list[list[list[float]]]:
        rng = np.random.default_rng(seed)
        hits = [int(rng.binomial(10, share)) for _ in range(40)]
        return [[[3, 0.8 * hit, hit, 0, 10 - hit, hit, 10]] for hit in hits]

    runs = [
        {"row": name, "seed": seed, "pictures": rows(share, seed)}
        for name, share in (("a", 0.5), ("b", 0.5), ("c", 0.75))
        for seed in (0, 1)
    ]
    said = counts.summary(runs, ["nuclei"] * 40, IDS, "a")["networks"]
    assert "pq_difference" not in said["a"]
    assert said["b"]["pq_difference"] == 0  # the same counts on the same pictures
    assert said["b"]["pq_difference_over_pictures"] == [0, 0]
    low, high = said["c"]["pq_difference_over_pictures"]
    assert 0 < low < said["c"]["pq_difference"] < high
    assert said["c"]["pq"] == pytest.approx(np.mean(said["c"]["pq_by_seed"]), abs=1e-4)
    # 0.8 * 0.75 / 0.875 - 0.8 * 0.5 / 0.75
    assert said["c"]["pq_difference"] == pytest.approx(0.152, abs=0.03)


def test_deviation_over_seeds_is_pooled(counts: ModuleType) -> None:
    deviation, freedom = counts.seed_deviation([[1.0, 3.0], [5.0, 5.0], [2.0]])
    assert (deviation, freedom) == (pytest.approx(1.0), 2)
