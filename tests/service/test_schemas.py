import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from proscale.results import ModelInfo
from proscale_service.errors import InvalidParameter
from proscale_service.requests import FORMS, PictureParameters, PlanParameters, SegmentParameters, parse_parameters

INFO = ModelInfo("m", "proscale", (1, 1, 1), "resnet", (), "memory")


def parse(**values: object) -> SegmentParameters:
    return parse_parameters(SegmentParameters, values)


def test_defaults_are_the_models() -> None:
    parameters = parse()
    assert parameters.tasks_of(INFO) == ("panoptic",)
    assert parameters.tasks_of(replace(INFO, tasks=("semantic",))) == ("semantic",)
    assert not parameters.largest_piece
    assert parameters.cleaning is None
    assert not any(parameters.model_dump(exclude={"task", "priority"}).values())


@pytest.mark.parametrize(
    "task",
    ["panoptic,semantic", ["panoptic", "semantic"], ["panoptic, semantic"], ["panoptic", "semantic", "panoptic"], ("panoptic", "semantic")],
)
def test_several_tasks(task: object) -> None:
    assert parse(task=task).tasks_of(INFO) == ("panoptic", "semantic")


@given(st.floats(0, 1))
def test_texts_and_numbers_are_the_same(value: float) -> None:
    assert parse(threshold=str(value)).threshold == parse(threshold=value).threshold == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("threshold", "overlap_threshold") for value in (7, -0.1, "1.5", "nan", "inf", "", "x", True, [0.5])],
        *[("mask_threshold", value) for value in (0, 1, "0", "7", math.nan)],
        *[("max_segments", value) for value in (0, -1, "1.5", "many", True, 1e300)],
        *[("deadline_ms", value) for value in (0, -5, "soon", 10**12)],
        *[("task", value) for value in ("", "pan", "panoptic,", [], ["panoptic", 3], 3, {"a": 1})],
        *[("labels", value) for value in ([], 3, [3], {"a": 1})],
    ],
)
def test_wrong_values_are_named(name: str, value: object) -> None:
    with pytest.raises(InvalidParameter, match=f"^{name}: ") as caught:
        parse(**{name: value})
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize("cls", [SegmentParameters, PictureParameters, PlanParameters])
def test_what_a_pattern_takes_is_said_in_words(cls: type[BaseModel]) -> None:
    patterned = [name for name, schema in cls.model_json_schema()["properties"].items() if '"pattern":' in json.dumps(schema)]
    assert patterned
    for name in patterned:
        with pytest.raises(InvalidParameter) as caught:
            parse_parameters(cls, {name: "@"})
        assert caught.value.detail == f"{name}: should be {FORMS[name]} (it is '@')"


def test_threshold_seven_says_what_is_allowed() -> None:
    with pytest.raises(InvalidParameter, match="less than or equal to 1"):
        parse(threshold="7")


def test_unknown_names_come_with_the_known() -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(treshold=0.5, threshold=7)
    assert "unknown parameter 'treshold'" in caught.value.detail
    assert all(name in caught.value.detail for name in SegmentParameters.model_fields)
    assert "threshold: should be" in caught.value.detail


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.floats() | st.text(max_size=8), max_size=4))
def test_anything_else_is_an_invalid_parameter(values: dict[str, object]) -> None:
    known = values.keys() & SegmentParameters.model_fields.keys()
    if values and not known:
        with pytest.raises(InvalidParameter, match="unknown parameter"):
            parse_parameters(SegmentParameters, values)


def test_plan_takes_sizes() -> None:
    parameters = parse_parameters(PlanParameters, {"width": "10", "height": 20, "task": ["semantic"]})
    assert (parameters.width, parameters.height, parameters.tasks_of(INFO)) == (10, 20, ("semantic",))
    with pytest.raises(InvalidParameter, match="height"):
        parse_parameters(PlanParameters, {"height": 0})
