"""Requests and answers survive the way there and back."""

import json
import subprocess
import sys

import pytest
from tests.builders import SMALL_CONFIG

from proscale.config_json import config_to_json
from proscale.labels import Category
from proscale.results import RLE, ModelInfo, Plan, Prediction, Provenance, Segment, Segmentation, SegmentationOptions
from proscale.wire import (
    DESCRIBE,
    Answer,
    Description,
    description_from_json,
    description_to_json,
    options_from_json,
    options_to_json,
    prediction_from_json,
    prediction_to_json,
)

PLAN = Plan((80, 100), (96, 128), 10, 20)


@pytest.mark.parametrize(
    "options",
    [
        SegmentationOptions(),
        SegmentationOptions(("instance", "semantic"), 0.25, 0.5, 0.75, ("cat", "dög"), 3),
        SegmentationOptions(labels=()),
        SegmentationOptions(("semantic",), confidence=True),
    ],
)
def test_options_survive_the_wire(options: SegmentationOptions) -> None:
    assert options_from_json(options_to_json(options)) == options


def test_a_describe_request_carries_no_options() -> None:
    assert options_from_json(DESCRIBE) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"colour": 1}', "1"])
def test_malformed_options_are_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        options_from_json(text)


def test_predictions_survive_the_wire() -> None:
    segment = Segment(1, 18, "dög", True, 0.1 + 0.2, (1, 2, 3, 4), 7, RLE((40, 50), "a\\b0"))
    results = {
        "panoptic": Segmentation("panoptic", (40, 50), (segment,)),
        "semantic": Segmentation("semantic", (40, 50), (), b"\x89PNG\x00"),
    }
    prediction = Prediction(results, PLAN, {"infer": 0.25})
    text = prediction_to_json(prediction, 3, "abc")
    assert prediction_from_json(text, (40, 50), PLAN) == Answer(prediction, 3, "abc")


@pytest.mark.parametrize("provenance", [None, Provenance("a.pkl", "00", "detectron2", ("warm start",))])
def test_descriptions_survive_the_wire(provenance: Provenance | None) -> None:
    info = ModelInfo("a", "proscale", (3, 3, 3), "swin", (Category(1, "cat", True),), "folder", provenance)
    config = config_to_json(SMALL_CONFIG)
    description = description_from_json(description_to_json(info, config, "abc"))
    assert description == Description(info, json.loads(json.dumps(config)), "abc")


def test_the_wire_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import proscale.wire, proscale.geometry"
    subprocess.run([sys.executable, "-c", code], check=True)
