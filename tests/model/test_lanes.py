"""Pictures side by side on a CPU give what each gives by itself."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from proscale.errors import ImageError
from proscale.lanes import Lanes, lanes_of
from proscale.predictions import NetworkPrediction
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("pictures", "threads"), [(1, 4), (2, 2), (3, 2), (5, 16), (4, 1)])
def test_every_picture_has_one_lane_and_no_lane_is_idle(pictures: int, threads: int) -> None:
    dealt = lanes_of(pictures, threads)
    assert sorted(number for numbers in dealt for number in numbers) == list(range(pictures))
    assert len(dealt) == min(pictures, threads)
    assert all(dealt)


def test_threads_are_shared_out_and_given_back(two_threads: None) -> None:
    both = threading.Barrier(2, timeout=60)  # the lanes run at the same time, or this breaks

    def compute(number: int) -> tuple[int, int, bool]:
        both.wait()
        return number, torch.get_num_threads(), torch.is_inference_mode_enabled()

    lanes = Lanes()
    assert lanes.run(compute, 2) == [(0, 1, True), (1, 1, True)]
    assert lanes.run(lambda number: (number, torch.get_num_threads()), 1) == [(0, 2)]
    assert torch.get_num_threads() == 2


def test_one_that_fails_fails_the_batch_and_the_next_is_computed(two_threads: None) -> None:
    lanes, done = Lanes(), []

    def compute(number: int) -> int:
        if number == 1:
            raise ValueError("picture 1")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="picture 1"):
        lanes.run(compute, 3)
    assert sorted(done) == [0, 2]  # nothing is left running
    assert lanes.run(lambda number: -number, 3) == [0, -1, -2]


@pytest.mark.slow
def test_a_batch_on_lanes_is_what_its_pictures_are_alone(
    small_predictor: Predictor, picture: np.ndarray, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [np.roll(picture, 9 * number, 1) for number in range(3)]
    options = [SegmentationOptions(tasks=("panoptic",)), SegmentationOptions(tasks=("instance",)), SegmentationOptions(tasks=("semantic",))]
    alone = [small_predictor.segment([each], [option])[0] for each, option in zip(pictures, options, strict=True)]
    seen: list[tuple[int, int]] = []
    predict = small_predictor._predict

    def watched(images: Tensor) -> NetworkPrediction:
        seen.append((images.shape[0], torch.get_num_threads()))
        return predict(images)

    monkeypatch.setattr(small_predictor, "_predict", watched)
    together = small_predictor.segment(pictures, options)
    assert seen == [(1, 1)] * 3
    assert [each.results for each in together] == [each.results for each in alone]
    assert len({(each.timings["infer"], each.timings["preprocess"]) for each in together}) == 1  # of the whole batch
    with pytest.raises(ImageError, match="share a padded size"):
        small_predictor.segment([picture, np.tile(picture, (9, 1, 1))], options[:2])
