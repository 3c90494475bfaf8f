"""From pictures to segments."""

import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network

from proscale.checkpoints.model_folder import load_folder, save_folder
from proscale.config import TASKS
from proscale.errors import CheckpointError, DeviceError, ImageError, ParameterError
from proscale.network import SegmentationNetwork
from proscale.postprocess import found, resize
from proscale.predictor import Predictor
from proscale.results import Segmentation, SegmentationOptions
from proscale.rle import decode


def masks(segmentation: Segmentation) -> np.ndarray:
    return np.stack([decode(segment.segmentation) for segment in segmentation.segments])


def test_segments_of_all_tasks_have_the_pictures_size_and_consistent_fields(small_predictor: Predictor, picture: np.ndarray) -> None:
    (prediction,) = small_predictor.segment([picture], [SegmentationOptions(TASKS)])
    assert list(prediction.results) == list(TASKS)
    by_id = {category.id: category for category in SMALL_CATEGORIES}
    for task, result in prediction.results.items():
        assert result.task == task
        assert result.size == (60, 80)
        assert result.segments
        assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
        for segment, mask in zip(result.segments, masks(result), strict=True):
            assert segment.area == mask.sum() > 0
            rows, columns = np.nonzero(mask)
            x, y, width, height = segment.bbox
            assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert (segment.label, segment.isthing) == (by_id[segment.category_id].name, by_id[segment.category_id].isthing)
            assert 0 < segment.score <= 1
    assert masks(prediction.results["panoptic"]).sum(0).max() == 1
    assert (masks(prediction.results["semantic"]).sum(0) == 1).all()
    assert all(segment.isthing for segment in prediction.results["instance"].segments)
    assert set(prediction.timings) == {"preprocess", "infer", "postprocess", "encode"}


def test_a_picture_does_not_depend_on_its_batch_mates(small_predictor: Predictor, picture: np.ndarray) -> None:
    mates = [picture, picture[::-1].copy(), np.zeros_like(picture)]
    options = [SegmentationOptions(("panoptic",)), SegmentationOptions(("semantic",)), SegmentationOptions(TASKS)]
    together = small_predictor.segment(mates, options)
    for image, option, prediction in zip(mates, options, together, strict=True):
        (alone,) = small_predictor.segment([image], [option])
        assert list(alone.results) == list(prediction.results)
        for task in option.tasks:
            ours, theirs = alone.results[task].segments, prediction.results[task].segments
            assert [s.category_id for s in ours] == [s.category_id for s in theirs]
            assert np.mean(masks(alone.results[task]) != masks(prediction.results[task])) < 1e-3


def test_the_plan_agrees_with_the_computation(small_predictor: Predictor, picture: np.ndarray) -> None:
    (prediction,) = small_predictor.segment([picture], [SegmentationOptions()])
    plan = small_predictor.plan(60, 80)
    assert prediction.plan == plan
    assert plan.resized == (96, 128)
    assert plan.padded == (96, 128)
    assert 0 < plan.flops < plan.baseline_flops
    assert small_predictor.plan(60, 80, TASKS).flops > plan.flops


def test_thresholds_labels_and_limits(small_predictor: Predictor, picture: np.ndarray) -> None:
    def segments(task: str = "instance", **options: object) -> tuple:
        return small_predictor.segment([picture], [SegmentationOptions((task,), **options)])[0].results[task].segments

    every = segments(threshold=0.0)
    scores = sorted((segment.score for segment in every), reverse=True)
    middle = (scores[2] + scores[3]) / 2
    assert [s.segmentation for s in segments(threshold=middle)] == [s.segmentation for s in every if s.score > middle]
    assert len(segments(threshold=middle)) == 3
    assert sorted(s.score for s in segments(threshold=0.0, max_segments=2)) == sorted(scores[:2])
    assert segments(threshold=1.0) == ()
    label = every[0].label
    assert [s.segmentation for s in segments(threshold=0.0, labels=(label,))] == [s.segmentation for s in every if s.label == label]
    small, large = (sum(s.area for s in segments(threshold=0.0, mask_threshold=t)) for t in (0.9, 0.1))
    assert small < large
    assert len(segments("panoptic", overlap_threshold=1.0)) < len(segments("panoptic", overlap_threshold=0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SegmentationOptions(tasks=()), "tasks must be among"),
        (SegmentationOptions(threshold=7), "threshold must lie in 0..1, not 7"),
        (SegmentationOptions(overlap_threshold=-0.1), "overlap_threshold"),
        (SegmentationOptions(mask_threshold=1.0), "mask_threshold must lie between"),
        (SegmentationOptions(max_segments=0), "max_segments must be at least 1"),
        (SegmentationOptions(labels=("cat", "unicorn")), "no label unicorn; it has cat, dog, ball, grass, sky"),
    ],
)
def test_invalid_options_are_refused(small_predictor: Predictor, picture: np.ndarray, options: SegmentationOptions, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        small_predictor.segment([picture], [options])


def test_arrays_that_are_no_pictures_are_refused(small_predictor: Predictor, picture: np.ndarray) -> None:
    with pytest.raises(ImageError, match="RGB array"):
        small_predictor.segment([picture[:, :, 0]], [SegmentationOptions()])
    with pytest.raises(ImageError, match="2 pictures but 1 options"):
        small_predictor.segment([picture, picture], [SegmentationOptions()])


def test_large_pictures_in_groups_and_strips_give_the_same_answer(
    small_predictor: Predictor, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "compiled", lambda *logits_and_frames: False)  # groups and strips are those of the reference form
    (whole,) = small_predictor.segment([picture], [SegmentationOptions(TASKS)])
    for values in (1, 7 * 60 * 80):
        monkeypatch.setattr(resize.queries_at_once, "__defaults__", (values,))
        monkeypatch.setattr(resize.resize_in_strips, "__defaults__", (values,))
        (parts,) = small_predictor.segment([picture], [SegmentationOptions(TASKS)])
        assert parts.results["panoptic"] == whole.results["panoptic"]
        assert parts.results["instance"] == whole.results["instance"]
        assert np.mean(masks(parts.results["semantic"]) != masks(whole.results["semantic"])) < 1e-3


def test_a_device_that_is_not_there_is_refused(small_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no such device"):
        Predictor.load(small_checkpoint, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(CheckpointError, match="torch finds no CUDA device"):
            Predictor.load(small_checkpoint, device="cuda")


def test_weights_of_another_network_are_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    _, categories, state = load_folder(small_checkpoint)
    other = replace(SMALL_CONFIG, transformer_decoder=replace(SMALL_CONFIG.transformer_decoder, layers=2))
    save_folder(tmp_path, other, categories, state)
    with pytest.raises(CheckpointError, match=r"superfluous: transformer_decoder\.layers\.2"):
        Predictor.load(tmp_path)


def test_info_describes_the_model(small_predictor: Predictor, small_checkpoint: Path) -> None:
    info = small_predictor.info
    assert (info.name, info.encoder, info.layers, info.backbone) == ("small random model", "proscale", (1, 1, 1), "resnet")
    assert info.loaded_from == str(small_checkpoint)
    assert Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES).info.loaded_from == "memory"


@pytest.mark.slow
def test_torchs_compiler_is_not_imported_unless_it_is_used() -> None:
    """It would add a second to every start."""
    code = "import sys, proscale.predictor, proscale.cli; sys.exit('torch._dynamo' in sys.modules or 'torch._inductor' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_permanent_gpu_failures_are_distinguished_from_others(
    small_predictor: Predictor, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore of it")

    monkeypatch.setattr(small_predictor, "_predict", fail)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with pytest.raises(torch.AcceleratorError):
        small_predictor.segment([picture], [SegmentationOptions()])
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(DeviceError, match=r"failed and needs a new process: CUDA error: an illegal memory access was encountered$"):
        small_predictor.segment([picture], [SegmentationOptions()])


def test_the_query_count_bounds_the_instances() -> None:
    """200 confident queries are 200 instances when so many are asked for, though 100 candidates are ranked otherwise."""
    decoder = replace(SMALL_CONFIG.transformer_decoder, queries=200)
    limits = replace(SMALL_CONFIG.postprocess, instance_threshold=0.0, max_instances=100)
    things = [replace(category, isthing=True) for category in SMALL_CATEGORIES]
    predictor = Predictor(SegmentationNetwork(replace(SMALL_CONFIG, transformer_decoder=decoder, postprocess=limits)), things)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)

    def count(most: int | None) -> int:
        options = SegmentationOptions(("instance",), threshold=0.0, mask_threshold=1e-6, max_segments=most)
        return len(predictor.segment([image], [options])[0].results["instance"].segments)

    assert count(None) == 100
    assert count(200) == 200


def test_weights_go_with_the_predictor_at_once(picture: np.ndarray) -> None:
    """Not when cycles are collected: a server that replaces its model allocates too few objects for that to happen."""
    predictor = Predictor(small_network(), SMALL_CATEGORIES)
    predictor.segment([picture] * 2, [SegmentationOptions(TASKS)] * 2)
    weights = [weakref.ref(parameter) for parameter in predictor.network.parameters()]
    gc.disable()
    try:
        del predictor
        assert not any(each() is not None for each in weights)
    finally:
        gc.enable()
