"""The map of confidence agrees with the scores of segments, which are its means."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from proscale.postprocess.class_map import find_classes
from proscale.postprocess.confidence import confidence_map
from proscale.postprocess.found import Frames
from proscale.predictions import DensePrediction
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.rle import decode


def test_confidence_of_networks_with_queries(small_predictor: Predictor, picture: np.ndarray) -> None:
    (prediction,) = small_predictor.segment([picture], [SegmentationOptions(("panoptic", "semantic"), confidence=True)])
    semantic = prediction.results["semantic"]
    assert prediction.results["panoptic"].confidence is None
    assert semantic.confidence is not None
    values = np.asarray(Image.open(io.BytesIO(semantic.confidence)))
    assert values.dtype == np.uint8
    assert values.shape == picture.shape[:2]
    assert semantic.segments
    for segment in semantic.segments:
        assert values[decode(segment.segmentation)].mean() / 255 == pytest.approx(segment.score, abs=2 / 255)
    (plain,) = small_predictor.segment([picture], [SegmentationOptions(("semantic",))])
    assert plain.results["semantic"].confidence is None
    assert plain.results["semantic"].segments == semantic.segments


@pytest.mark.parametrize("resize_twice", [False, True])
def test_confidence_of_networks_without_queries(resize_twice: bool) -> None:
    torch.manual_seed(3)
    prediction = DensePrediction(torch.randn(1, 4, 9, 11) * 3)
    frames = Frames((36, 44), (36, 44), (50, 61))
    values = confidence_map(prediction, frames, combine_first=False, resize_twice=resize_twice)
    assert values.shape == (50, 61)
    found = find_classes(prediction, frames, resize_twice)
    for _, score, mask in found.encode():
        assert values[decode(mask.rle)].mean() / 255 == pytest.approx(score, abs=2 / 255)
