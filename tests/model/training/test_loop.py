"""The loop learns, resumes bit for bit, and explains what it cannot do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.cli import main
from proscale.errors import CheckpointError
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.training.augment import Augmentation, random_view
from proscale.training.config import LossConfig, TrainingConfig
from proscale.training.export import inference_network
from proscale.training.loop import InterruptedTrainingError, Trainer, learning_rate
from proscale.training.sample import Sample
from proscale.training.scenes.painter import draw_scene
from proscale.training.views import Views

CONFIG = TrainingConfig(
    steps=6, batch_size=2, crop=64, warmup_steps=2, scenes=0, losses=LossConfig(points=64), data_augmentation=Augmentation(scale=(1.0, 1.2))
)


def two_squares(index: int) -> Sample:
    """A bright square on dark ground, at one of two places."""
    image, ids = np.full((64, 64, 3), 40, np.uint8), np.full((64, 64), 1, np.int32)
    part = slice(8, 36) if index else slice(24, 56)
    image[part, part], ids[part, part] = (230, 220, 60), 2
    return Sample(image, ids, np.array([3, 0]), np.zeros(2, bool))


def train(folder: Path, config: TrainingConfig, stop_after: int | None = None, resume: bool = False) -> Trainer:
    def interrupt(index: int) -> Sample:
        if stop_after is not None and trainer.step == stop_after:
            raise KeyboardInterrupt
        return two_squares(index)

    trainer = Trainer(folder, config, SMALL_CONFIG)
    if resume:
        trainer.resume()
    trainer.run(interrupt, 2, [], workers=0, progress=False)
    return trainer


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", CONFIG)
    with pytest.raises(InterruptedTrainingError):
        train(tmp_path / "parts", CONFIG, stop_after=3)
    resumed = train(tmp_path / "parts", CONFIG, resume=True)
    assert resumed.step == whole.step == 6
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    records = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 6


@pytest.mark.slow
def test_it_learns_two_pictures_by_heart(tmp_path: Path) -> None:
    config = replace(
        CONFIG, steps=100, batch_size=4, learning_rate=2e-3, ema_decay=0.9, data_augmentation=Augmentation(scale=(1, 1.001), noise=0)
    )
    trainer = train(tmp_path, config)
    predictor = Predictor(inference_network(trainer.average), SMALL_CATEGORIES)
    (prediction,) = predictor.segment([two_squares(0).image], [SegmentationOptions(("panoptic",), threshold=0.3, overlap_threshold=0.3)])
    labels = {segment.category_id: segment.area for segment in prediction.results["panoptic"].segments}
    assert labels.get(1, 0) == pytest.approx(32 * 32, rel=0.25)
    assert labels.get(100, 0) == pytest.approx(64 * 64 - 32 * 32, rel=0.25)


def test_a_run_can_stop_early_and_start_from_anothers_weights(tmp_path: Path) -> None:
    first = Trainer(tmp_path / "first", CONFIG, SMALL_CONFIG)
    first.run(two_squares, 2, [], workers=0, stop_after=2, progress=False)
    assert first.step == 2
    weights = inference_network(first.average).state_dict()
    second = Trainer(tmp_path / "second", replace(CONFIG, learning_rate=1e-12, seed=5), SMALL_CONFIG)
    second.start_from(weights)
    assert all(torch.equal(value, weights[name]) for name, value in inference_network(second.average).state_dict().items())
    second.run(two_squares, 2, [], workers=0, progress=False)
    queries = second.network.transformer_decoder.query_features
    assert torch.allclose(queries, weights["transformer_decoder.query_features"], atol=1e-8)
    with pytest.raises(CheckpointError, match="missing"):
        second.start_from({})


def test_resuming_needs_a_run_of_the_same_definition(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        Trainer(tmp_path, CONFIG, SMALL_CONFIG).resume()
    train(tmp_path, replace(CONFIG, steps=1))
    with pytest.raises(CheckpointError, match="made with another configuration"):
        Trainer(tmp_path, replace(CONFIG, steps=2), SMALL_CONFIG).resume()
    (tmp_path / "last.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trainer(tmp_path, replace(CONFIG, steps=1), SMALL_CONFIG).resume()


def test_a_failed_save_leaves_the_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = train(tmp_path, replace(CONFIG, steps=1))
    before = (tmp_path / "last.pt").read_bytes()

    def full_disk(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        trainer.save()
    assert (tmp_path / "last.pt").read_bytes() == before


def test_learning_rate_rises_holds_and_falls_to_nothing() -> None:
    config = replace(CONFIG, steps=100, warmup_steps=10, decay_share=0.5, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_views_depend_on_their_number_alone_and_mix_the_sources_evenly() -> None:
    config = replace(CONFIG, scenes=2, scene_share=0.5)
    scenes = [draw_scene(i, 64) for i in range(2)]
    views = Views(two_squares, 2, scenes, config, SMALL_CONFIG.preprocess)
    assert all(torch.equal(a, b) for a, b in zip(views[3], views[3], strict=True))
    assert not torch.equal(views[3][0], views[5][0])
    stuff_and_square = [set(views[n][2].tolist()) <= {0, 3} for n in range(8)]
    assert sum(stuff_and_square) == 4
    assert stuff_and_square[::2] == [stuff_and_square[0]] * 4


def test_a_view_shows_its_sample() -> None:
    sample = two_squares(0)
    settings = Augmentation(scale=(0.5, 0.5001), brightness=0, contrast=0, saturation=0, gamma=0, noise=0)
    view, (height, width) = random_view(sample, 64, np.random.default_rng(0), settings)
    assert (height, width) == (32, 32)
    assert not view.image[32:].any()
    assert not view.ids[:, 32:].any()
    bright = view.image[:32, :32, 0] > 135
    assert (bright == (view.ids[:32, :32] == 2)).mean() > 0.95


def test_the_command_trains_and_explains(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--scenes", "3", "--steps", "2", "--batch-size", "2", "--crop", "64", "--workers", "0", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert Predictor.load(out / "model").config.classes == len(Predictor.load(out / "model").categories) == 14
    for wrong, message in (
        (["--crop", "50"], "must be a multiple of 32"),
        (["--scenes", "0"], "nothing to train on"),
        (["--data", str(tmp_path / "nowhere")], "does not exist"),
        (["--resume", "--seed", "5"], "another configuration"),
    ):
        result = CliRunner().invoke(main, [*arguments, *wrong])
        assert result.exit_code != 0
        assert message in result.output
