import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale.config import TASKS
from proscale.labels import Category
from proscale_service.errors import DeadlineExceeded, InvalidParameter, Loading, Unavailable
from proscale_service.metrics import Metrics
from proscale_service.pipeline import Pipeline, options_of, resolve_labels
from proscale_service.schemas import SegmentParameters
from proscale_service.settings import Settings

from .engines import ThresholdEngine
from .pictures import blob, encoded

NAMES = ("cat", "potted plant", "chest, of drawers", "Sky")
CATEGORIES = [Category(i, name, True) for i, name in enumerate(NAMES)]
PICTURE = encoded(blob())


def test_labels_are_found_in_any_case_and_split_only_where_they_must() -> None:
    assert resolve_labels(["CAT, sky", "potted plant"], CATEGORIES) == ("cat", "Sky", "potted plant")
    assert resolve_labels(["chest, of drawers"], CATEGORIES) == ("chest, of drawers",)
    assert resolve_labels(["cat", "cat,cat"], CATEGORIES) == ("cat",)


@given(st.lists(st.sampled_from(NAMES), min_size=1))
def test_every_label_is_found(labels: list[str]) -> None:
    assert resolve_labels(labels, CATEGORIES) == tuple(dict.fromkeys(labels))


@pytest.mark.parametrize(
    ("label", "near"), [("cats", "'cat'"), ("POTTED PLANTS", "'potted plant'"), ("qqqq", "GET /models"), ("", "GET /models")]
)
def test_unknown_labels_come_with_near_ones(label: str, near: str) -> None:
    with pytest.raises(InvalidParameter, match=near):
        resolve_labels(["cat", label], CATEGORIES)


def test_two_labels_that_differ_in_case_stay_two() -> None:
    twins = [Category(0, "Cell", True), Category(1, "cell", True)]
    assert resolve_labels(["Cell"], twins) == ("Cell",)
    assert resolve_labels(["cell"], twins) == ("cell",)


def test_parameters_become_options() -> None:
    given = SegmentParameters(
        task=("semantic", "semantic"), threshold=0.1, mask_threshold=0.2, overlap_threshold=0.3, labels=["BLOB"], max_segments=4
    )
    options = options_of(given, ThresholdEngine().info)
    assert (options.tasks, options.threshold, options.mask_threshold, options.overlap_threshold) == (("semantic",), 0.1, 0.2, 0.3)
    assert (options.labels, options.max_segments) == (("blob",), 4)
    assert options_of(SegmentParameters(), ThresholdEngine().info).labels is None


def pipeline(engine: ThresholdEngine, **settings: Any) -> Pipeline:
    return Pipeline(Settings(**settings), Metrics(), lambda given: engine)


async def test_warm_up_computes_every_size_and_measures() -> None:
    engine = ThresholdEngine()
    made = pipeline(engine, warmup="40x50,64x64")
    assert made.expected_seconds(1) is None
    assert await made.start()
    assert engine.batches == [[(40, 50)], [(64, 64)]]
    seconds = made.expected_seconds(engine.plan(64, 64, TASKS).flops)
    assert seconds == pytest.approx(0.010)
    assert engine.threads == {"engine_0"}
    await made.stop()
    assert engine.closed


async def test_places_are_given_back_whatever_happens() -> None:
    engine = ThresholdEngine()
    made = pipeline(engine, warmup="")
    now = asyncio.get_running_loop().time
    with pytest.raises(Loading):
        await made.segment(PICTURE, SegmentParameters(), now())
    await made.start()
    poison = blob()
    poison[0, 0] = ThresholdEngine.POISON
    tries = [
        made.segment(PICTURE, SegmentParameters(), now()),
        made.segment(b"no picture", SegmentParameters(), now()),
        made.segment(encoded(poison), SegmentParameters(), now()),
        made.segment(PICTURE, SegmentParameters(), now() - 1000),
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert isinstance(results[3], DeadlineExceeded)
    assert (made.admission.pictures, made.admission.pixels) == (0, 0)
    await made.stop()


async def test_a_deadline_in_the_past_is_not_even_decoded() -> None:
    engine = ThresholdEngine()
    made = pipeline(engine, warmup="")
    await made.start()
    with pytest.raises(DeadlineExceeded, match="decoded"):
        await made.segment(PICTURE, SegmentParameters(deadline_ms=1), asyncio.get_running_loop().time() - 1)
    assert not engine.batches
    await made.stop()


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 1), (3.2, 4), (1e6, 60)])
def test_retry_after_is_the_work_ahead_within_bounds(monkeypatch: pytest.MonkeyPatch, seconds: float, told: int) -> None:
    made = pipeline(ThresholdEngine())
    monkeypatch.setattr(made, "expected_seconds", lambda flops: seconds)
    assert made.retry_after() == told


async def test_an_engine_that_is_lost_answers_everybody_and_takes_no_more() -> None:
    engine, reasons = ThresholdEngine(), list[str]()
    made = Pipeline(Settings(warmup=""), Metrics(), lambda given: engine, on_lost=reasons.append)
    await made.start()
    now = asyncio.get_running_loop().time
    fatal = blob()
    fatal[0, 0] = ThresholdEngine.FATAL
    engine.gate.clear()
    tries = [asyncio.create_task(made.segment(each, SegmentParameters(), now())) for each in (encoded(fatal), PICTURE, PICTURE)]
    while made.admission.pictures < 3:
        await asyncio.sleep(0.01)
    engine.gate.set()
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [getattr(result, "status", None) for result in results] == [503] * 3
    assert (made.state, made.failure, reasons) == ("failed", "cuda:0 failed", ["cuda:0 failed"])
    assert b"proscale_engine_up 0.0" in made.metrics.text()
    with pytest.raises(Unavailable, match="its GPU failed"):
        await made.segment(PICTURE, SegmentParameters(), now())
    assert (made.admission.pictures, made.admission.pixels) == (0, 0)
    await made.stop()
