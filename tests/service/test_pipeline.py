import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale.config import TASKS
from proscale.formats.cleaning import CleaningOptions
from proscale.labels import Category
from proscale_service.engines.base import retry_after
from proscale_service.engines.costs import Work
from proscale_service.errors import DeadlineExceeded, InvalidParameter, Loading, Unavailable
from proscale_service.metrics import Metrics
from proscale_service.options import cleaning_of, options_of, resolve_labels
from proscale_service.pipeline import Pipeline, SegmentedPicture
from proscale_service.requests import SegmentParameters
from proscale_service.settings import Settings

from .pictures import blob, encoded
from .predictors import ThresholdPredictor
from .serving import in_process

NAMES = ("cat", "potted plant", "chest, of drawers", "Sky")
CATEGORIES = [Category(i, name, True) for i, name in enumerate(NAMES)]
PICTURE = encoded(blob())


def test_labels_are_found_in_any_case_and_split_only_where_they_must() -> None:
    assert resolve_labels(["CAT, sky", "potted plant"], CATEGORIES) == ("cat", "Sky", "potted plant")
    assert resolve_labels(["chest, of drawers"], CATEGORIES) == ("chest, of drawers",)
    assert resolve_labels(["cat", "cat,cat"], CATEGORIES) == ("cat",)


def test_labels_are_compared_as_names_of_data_sets_are() -> None:
    indoor = [
        Category(i, name, True) for i, name in enumerate(("window ", "road, route", "door", "screen door, screen", "crt screen, screen"))
    ]
    assert resolve_labels(["Window"], indoor) == ("window ",)
    assert resolve_labels(["Road,Route", "door"], indoor) == ("road, route", "door")
    assert resolve_labels(["route", "screen-door"], indoor) == ("road, route", "screen door, screen")
    with pytest.raises(InvalidParameter, match="no label 'screen'"):
        resolve_labels(["screen"], indoor)  # two have it


@given(st.lists(st.sampled_from(NAMES), min_size=1))
def test_every_label_is_found(labels: list[str]) -> None:
    assert resolve_labels(labels, CATEGORIES) == tuple(dict.fromkeys(labels))


@pytest.mark.parametrize(
    ("label", "near"),
    [
        ("cats", "did you mean 'cat'"),
        ("POTTED PLANTS", "'potted plant'"),
        ("qqqq", "it has 'cat', 'potted plant', 'chest, of drawers', 'Sky'$"),
        ("", "it has 'cat'"),
    ],
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
    options = options_of(given, ThresholdPredictor().info)
    assert (options.tasks, options.threshold, options.mask_threshold, options.overlap_threshold) == (("semantic",), 0.1, 0.2, 0.3)
    assert (options.labels, options.max_segments) == (("blob",), 4)
    assert options_of(SegmentParameters(), ThresholdPredictor().info).labels is None


def test_a_merged_label_has_the_same_category_in_every_picture() -> None:
    info = ThresholdPredictor().info
    ids = {category.name: category.id for category in info.categories}

    def merged(*texts: str) -> CleaningOptions:
        cleaning = cleaning_of(SegmentParameters(merge_labels=list(texts)), info)
        assert cleaning is not None
        return cleaning

    assert merged("thing=GROUND|blob").merge_labels == {"thing": ("ground", "blob")}
    assert merged("thing=GROUND|blob").category_ids == {"thing": ids["ground"]}
    assert merged("blob=ground").category_ids == {"blob": ids["blob"]}
    with pytest.raises(InvalidParameter, match="one label only"):
        merged("a=Ground,b=ground")
    assert cleaning_of(SegmentParameters(min_area=2), info) == CleaningOptions(min_area=2)


def test_merged_labels_may_hold_commas() -> None:
    parameters = SegmentParameters(merge_labels=["way=road, route|path,b=field, meadow"])
    assert parameters.merge_labels == ("way=road, route|path", "b=field, meadow")


def pipeline(predictor: ThresholdPredictor, on_lost: Callable[[str], None] = lambda reason: None, **settings: Any) -> Pipeline:
    return Pipeline(Settings(**settings), Metrics(), in_process(lambda runtime: predictor), on_lost)


async def segment(made: Pipeline, picture: bytes, parameters: SegmentParameters, arrived: float) -> SegmentedPicture:
    made.enter()
    return await made.segment(picture, parameters, arrived)


async def test_warm_up_computes_every_size_and_measures() -> None:
    engine = ThresholdPredictor()
    made = pipeline(engine, warmup="40x50,64x64")
    assert await made.lifecycle.start()
    assert engine.batches == [[(40, 50)], [(64, 64)]]
    seconds = made.models.find().engine.backlog.expected_seconds(Work(engine.plan(64, 64, TASKS), 64 * 64, TASKS))
    assert seconds == pytest.approx(0.010)
    assert engine.threads == {"engine_0"}
    await made.lifecycle.stop()


async def test_capacity_is_released_whatever_happens() -> None:
    engine = ThresholdPredictor()
    made = pipeline(engine, warmup="")
    now = asyncio.get_running_loop().time
    with pytest.raises(Loading):
        await segment(made, PICTURE, SegmentParameters(), now())
    await made.lifecycle.start()
    poison = blob()
    poison[0, 0] = ThresholdPredictor.POISON
    tries = [
        segment(made, PICTURE, SegmentParameters(), now()),
        segment(made, b"no picture", SegmentParameters(), now()),
        segment(made, encoded(poison), SegmentParameters(), now()),
        segment(made, PICTURE, SegmentParameters(), now() - 1000),
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert isinstance(results[3], DeadlineExceeded)
    assert (made.admission.pictures, made.admission.pixels) == (0, 0)
    await made.lifecycle.stop()


async def test_a_deadline_in_the_past_is_not_even_decoded() -> None:
    engine = ThresholdPredictor()
    made = pipeline(engine, warmup="")
    await made.lifecycle.start()
    with pytest.raises(DeadlineExceeded, match="decoded"):
        await segment(made, PICTURE, SegmentParameters(deadline_ms=1), asyncio.get_running_loop().time() - 1)
    assert not engine.batches
    await made.lifecycle.stop()


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 1), (3.2, 4), (1e6, 60)])
def test_retry_after_is_the_work_ahead_within_bounds(seconds: float, told: int) -> None:
    assert retry_after(seconds) == told


async def test_a_lost_engine_fails_all_its_pictures_and_admits_no_more() -> None:
    engine, reasons = ThresholdPredictor(), list[str]()
    made = pipeline(engine, on_lost=reasons.append, warmup="")
    await made.lifecycle.start()
    now = asyncio.get_running_loop().time
    fatal = blob()
    fatal[0, 0] = ThresholdPredictor.FATAL
    engine.gate.clear()
    tries = [asyncio.create_task(segment(made, encoded(fatal), SegmentParameters(), now()))]
    while engine.calls < 1:  # or a picture that is read faster would be computed before it
        await asyncio.sleep(0.01)
    tries += [asyncio.create_task(segment(made, PICTURE, SegmentParameters(), now())) for _ in range(2)]
    while len(made.models.find().engine.backlog) < 3:
        await asyncio.sleep(0.01)
    engine.gate.set()
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [getattr(result, "status", None) for result in results] == [503] * 3
    assert (made.lifecycle.state, made.lifecycle.failure, reasons) == ("failed", "cuda:0 failed", ["cuda:0 failed"])
    assert b"proscale_engine_up 0.0" in made.metrics.text()
    with pytest.raises(Unavailable, match="its GPU failed"):
        await segment(made, PICTURE, SegmentParameters(), now())
    assert (made.admission.pictures, made.admission.pixels) == (0, 0)
    await made.lifecycle.stop()
