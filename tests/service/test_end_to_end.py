"""The real thing: `proscale serve` in its own process, the network with random weights, HTTP between."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from proscale.pictures import read_picture
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale_service.client import Client

from .pictures import blob, coco_mask, encoded, exif, gradient, stored_for
from .serving import http, metric, process

OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def url(small_checkpoint: Path) -> Iterator[str]:
    with process("--checkpoint", str(small_checkpoint)) as (url, started):
        yield url
        assert started.poll() is None, "the server died"


def pictures() -> dict[str, bytes]:
    return {
        "landscape": encoded(gradient(70, 110)),
        "portrait": encoded(gradient(110, 70), "JPEG"),
        "turned": encoded(stored_for(gradient(50, 90), 6), exif=exif(6)),
        "pixel": encoded(gradient(1, 1)),
        "line": encoded(gradient(1, 10000)),
        "column": encoded(gradient(10000, 1)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures())
def test_masks_over_http_are_the_predictors_bit_for_bit(url: str, small_predictor: Predictor, name: str) -> None:
    data = pictures()[name]
    tasks = ("panoptic", "instance", "semantic")
    body = http.post(f"{url}/segment?task={','.join(tasks)}", content=data, headers=OCTETS, timeout=60).json()
    picture = read_picture(data, 10**6)
    image, header = picture.rgb, picture.header
    expected = small_predictor.segment([image], [SegmentationOptions(tasks=tasks)])[0]
    assert body["image"] == {"width": header.width, "height": header.height, "orientation_applied": header.orientation}
    assert body["compute"]["padded_size"] == list(expected.plan.padded)
    assert body["compute"]["flops"] == expected.plan.flops
    assert max(expected.plan.padded) <= 192
    found = 0
    for task in tasks:
        segments = body["results"][task]["segments"]
        assert len(segments) == len(expected.results[task].segments)
        for got, wanted in zip(segments, expected.results[task].segments, strict=True):
            assert (got["label"], got["bbox"], got["area"]) == (wanted.label, list(wanted.bbox), wanted.area)
            assert got["score"] == pytest.approx(wanted.score, abs=1e-5)
            assert got["segmentation"] == {"size": list(image.shape[:2]), "counts": wanted.segmentation.counts}
            mask = coco_mask(got["segmentation"])
            assert mask.shape == image.shape[:2]
            assert mask.sum() == got["area"]
            found += 1
    assert found


def test_panoptic_and_semantic_masks_do_not_overlap(url: str) -> None:
    with Client(url) as client:
        answer = client.segment(gradient(70, 110), task=["panoptic", "semantic"])
    for segments in answer.results.values():
        assert sum(segment.mask.astype(int) for segment in segments).max() <= 1
    assert sum(segment.area for segment in answer.results["semantic"]) == 70 * 110


def test_parameters_reach_the_network(url: str) -> None:
    with Client(url) as client:
        everything = client.segment(gradient(70, 110), task="instance", threshold=0)
        few = client.segment(gradient(70, 110), task="instance", threshold=0, max_segments=2)
        label = everything.segments[0].label
        only = client.segment(gradient(70, 110), task="instance", threshold=0, labels=label)
        nothing = client.segment(gradient(70, 110), threshold=1)
    assert len(everything.segments) > 2
    best = sorted(segment.score for segment in everything.segments)[-2:]
    assert sorted(segment.score for segment in few.segments) == best
    assert {segment.label for segment in only.segments} == {label}
    assert nothing.segments == ()


def test_flops_are_counted(url: str) -> None:
    before = metric(url, 'proscale_flops_total{encoder="proscale"}'), metric(url, "proscale_baseline_flops_total")
    saved = metric(url, "proscale_flops_saved_total")
    compute = http.post(f"{url}/segment", content=encoded(blob()), headers=OCTETS, timeout=60).json()["compute"]
    assert metric(url, 'proscale_flops_total{encoder="proscale"}') - before[0] == pytest.approx(compute["flops"])
    assert metric(url, "proscale_baseline_flops_total") - before[1] == pytest.approx(compute["baseline_flops"])
    assert metric(url, "proscale_flops_saved_total") - saved == pytest.approx(compute["baseline_flops"] - compute["flops"])
    assert 0 < compute["saved_ratio"] < 1


def test_the_plan_equals_the_actual_cost(url: str) -> None:
    with Client(url) as client:
        plan = client.plan(70, 110, task=["panoptic", "semantic"])
        answer = client.segment(gradient(70, 110), task=["panoptic", "semantic"])
    assert plan["expected_ms"] > 0
    assert {name: answer.raw["compute"][name] for name in plan["compute"]} == plan["compute"]


def test_results_do_not_depend_on_batch_mates(url: str) -> None:
    rng = np.random.default_rng(0)
    noises = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(6)]
    with Client(url) as client, ThreadPoolExecutor(6) as executor:
        alone = [client.segment(noise, task="semantic") for noise in noises]
        together = list(executor.map(lambda noise: client.segment(noise, task="semantic"), noises * 3))
    sizes = [answer.raw["compute"]["batch_size"] for answer in together]
    assert max(sizes) > 1
    for answer, other in zip(alone * 3, together, strict=True):
        # A pixel may tip over where two classes are equal but for rounding: the order of sums differs with the batch's size.
        labels, others = ({s.label: s.mask for s in a.segments} for a in (answer, other))
        differing = sum((labels.get(name, 0) ^ others.get(name, 0)).sum() for name in labels | others)
        assert differing <= 2 * 0.0002 * 40 * 60 + 2


@pytest.mark.slow
def test_the_default_model_serves() -> None:
    with process() as (url, _), Client(url) as client:
        answer = client.segment(gradient(70, 110))
        assert answer.size == (70, 110)
        assert client.models()[0]["categories"]
