"""The loop learns, resumes bit for bit, and explains what it cannot do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.cli import main
from proscale.errors import CheckpointError, DataError
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.training.augment import Augmentation, random_view
from proscale.training.config import LossConfig, TrainingConfig
from proscale.training.export import inference_network
from proscale.training.loop import DivergedError, InterruptedTrainingError, Trainer, learning_rate
from proscale.training.sample import Sample
from proscale.training.scenes.painter import draw_scene
from proscale.training.views import Views, collate, drawing_odds

CONFIG = TrainingConfig(
    steps=6, batch_size=2, crop=64, warmup_steps=2, scenes=0, losses=LossConfig(points=64), data_augmentation=Augmentation(scale=(1.0, 1.2))
)


def two_squares(index: int) -> Sample:
    """A bright square on dark ground, at one of two places."""
    image, ids = np.full((64, 64, 3), 40, np.uint8), np.full((64, 64), 1, np.int32)
    part = slice(8, 36) if index else slice(24, 56)
    image[part, part], ids[part, part] = (230, 220, 60), 2
    return Sample(image, ids, np.array([3, 0]), np.zeros(2, bool), f"square-{index}")


def train(folder: Path, config: TrainingConfig, stop_after: int | None = None, resume: bool = False) -> Trainer:
    def interrupt(index: int) -> Sample:
        if stop_after is not None and trainer.step == stop_after:
            raise KeyboardInterrupt
        return two_squares(index)

    trainer = Trainer(folder, config, SMALL_CONFIG, SMALL_CATEGORIES)
    if resume:
        trainer.resume()
    trainer.run(interrupt, 2, [], workers=0, progress=False)
    return trainer


def test_a_state_from_before_a_setting_existed_has_its_default(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2)
    trainer = Trainer(tmp_path, config, SMALL_CONFIG, SMALL_CATEGORIES)
    trainer.save()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    definition = json.loads(state["definition"])
    del definition["settings"]["data_augmentation"]["mosaic"]
    torch.save(state | {"definition": json.dumps(definition)}, tmp_path / "last.pt")
    assert Trainer(tmp_path, config, SMALL_CONFIG, SMALL_CATEGORIES).resume() == {}
    mosaics = replace(config, data_augmentation=replace(config.data_augmentation, mosaic=0.5))
    with pytest.raises(CheckpointError, match=r"data_augmentation\.mosaic was 0\.0, is 0\.5"):
        Trainer(tmp_path, mosaics, SMALL_CONFIG, SMALL_CATEGORIES).resume()


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", CONFIG)
    with pytest.raises(InterruptedTrainingError):
        train(tmp_path / "parts", CONFIG, stop_after=3)
    resumed = train(tmp_path / "parts", CONFIG, resume=True)
    assert resumed.step == whole.step == 6
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    records = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 6


def test_bfloat16_computes_nearly_the_same_step_and_keeps_float32_weights(tmp_path: Path) -> None:
    batch = collate([Views(two_squares, 2, [], CONFIG, SMALL_CONFIG.preprocess)[n] for n in range(2)])
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(tmp_path / precision, replace(CONFIG, precision=precision), SMALL_CONFIG, SMALL_CATEGORIES)
        seen: list[torch.dtype] = []
        trainer.learner.dense_head.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.dtype))
        losses[precision] = trainer.train_step([batch])["loss"]
        assert seen == [getattr(torch, precision)]
        assert {parameter.dtype for parameter in trainer.learner.parameters()} == {torch.float32}
        assert {value.dtype for value in trainer.average.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)


@pytest.mark.slow
def test_it_overfits_two_pictures(tmp_path: Path) -> None:
    config = replace(
        CONFIG, steps=100, batch_size=4, learning_rate=2e-3, ema_decay=0.9, data_augmentation=Augmentation(scale=(1, 1.001), noise=0)
    )
    trainer = train(tmp_path, config)
    predictor = Predictor(inference_network(trainer.average), SMALL_CATEGORIES)
    (prediction,) = predictor.segment([two_squares(0).image], [SegmentationOptions(("panoptic",), threshold=0.3, overlap_threshold=0.3)])
    labels = {segment.category_id: segment.area for segment in prediction.results["panoptic"].segments}
    assert labels.get(1, 0) == pytest.approx(32 * 32, rel=0.25)
    assert labels.get(100, 0) == pytest.approx(64 * 64 - 32 * 32, rel=0.25)


@pytest.mark.slow
def test_a_run_can_stop_early_and_start_from_anothers_weights(tmp_path: Path) -> None:
    first = Trainer(tmp_path / "first", CONFIG, SMALL_CONFIG, SMALL_CATEGORIES)
    first.run(two_squares, 2, [], workers=0, stop_after=2, progress=False)
    assert first.step == 2
    weights = inference_network(first.average).state_dict()
    second = Trainer(tmp_path / "second", replace(CONFIG, learning_rate=1e-12, seed=5), SMALL_CONFIG, SMALL_CATEGORIES)
    assert second.start_from(weights, SMALL_CATEGORIES) == ()
    assert all(torch.equal(value, weights[name]) for name, value in inference_network(second.average).state_dict().items())
    second.run(two_squares, 2, [], workers=0, progress=False)
    queries = second.learner.network.transformer_decoder.query_features
    assert torch.allclose(queries, weights["transformer_decoder.query_features"], atol=1e-8)
    with pytest.raises(CheckpointError, match=r"has no transformer_decoder\.class_head"):
        second.start_from({}, SMALL_CATEGORIES)


@pytest.mark.slow
def test_resuming_needs_a_run_of_the_same_definition(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        Trainer(tmp_path, config, SMALL_CONFIG, SMALL_CATEGORIES).resume()
    train(tmp_path, config)
    with pytest.raises(CheckpointError, match=r"settings\.seed was 0, is 3"):
        Trainer(tmp_path, replace(config, seed=3), SMALL_CONFIG, SMALL_CATEGORIES).resume()
    renamed = (replace(SMALL_CATEGORIES[0], name="tiger"), *SMALL_CATEGORIES[1:])
    for categories in (renamed, SMALL_CATEGORIES[::-1], (replace(SMALL_CATEGORIES[0], id=2), *SMALL_CATEGORIES[1:])):
        with pytest.raises(CheckpointError, match="trained on other categories"):
            Trainer(tmp_path, config, SMALL_CONFIG, categories).resume()
    (tmp_path / "last.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read .* still holds the last trained weights"):
        Trainer(tmp_path, config, SMALL_CONFIG, SMALL_CATEGORIES).resume()


@pytest.mark.slow
def test_a_diverging_loss_names_step_and_pictures_and_can_be_resumed_at_a_lower_rate(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4)
    trainer = Trainer(tmp_path, config, SMALL_CONFIG, SMALL_CATEGORIES)
    trainer.run(two_squares, 2, [], workers=0, stop_after=2, progress=False)
    kept = (tmp_path / "last.pt").read_bytes()
    with torch.no_grad():
        trainer.learner.dense_head.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"diverged at step 3: loss nan.*square-[01].*last\.pt holds.*--resume and a lower") as told:
        trainer.run(two_squares, 2, [], workers=0, progress=False)
    assert "0.0005" in str(told.value)
    assert (tmp_path / "last.pt").read_bytes() == kept
    again = Trainer(tmp_path, replace(config, learning_rate=1e-4), SMALL_CONFIG, SMALL_CATEGORIES)
    assert again.resume() == {"settings.learning_rate": (5e-4, 1e-4)}
    again.run(two_squares, 2, [], workers=0, progress=False)
    assert again.step == 4
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"step": 2, "changed": {"settings.learning_rate": [5e-4, 1e-4]}} in records
    third = Trainer(tmp_path, replace(config, learning_rate=1e-4), SMALL_CONFIG, SMALL_CATEGORIES)
    assert third.resume() == {}
    assert third.changes == [{"step": 2, "changed": {"settings.learning_rate": [5e-4, 1e-4]}}]


@pytest.mark.slow
def test_a_batch_in_parts_trains_as_the_whole(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=3, batch_size=4, frozen_batch_norm=True, losses=LossConfig(points=10**6, pilots=0))
    whole, parts = train(tmp_path / "whole", config), train(tmp_path / "parts", replace(config, accumulate=2))
    for name, value in whole.learner.state_dict().items():
        assert torch.allclose(value, parts.learner.state_dict()[name], atol=2e-4), name


@pytest.mark.parametrize(("batch", "crop", "accumulate", "message"), [(1, 32, 1, "single value"), (3, 64, 2, "cannot be divided")])
def test_a_batch_too_small_is_refused_with_the_remedy(tmp_path: Path, batch: int, crop: int, accumulate: int, message: str) -> None:
    config = replace(CONFIG, batch_size=batch, crop=crop, accumulate=accumulate)
    with pytest.raises(DataError, match=message):
        Trainer(tmp_path, config, SMALL_CONFIG, SMALL_CATEGORIES)


def test_the_backbone_may_learn_more_slowly(tmp_path: Path) -> None:
    trainer = train(tmp_path, replace(CONFIG, steps=1, backbone_multiplier=0.1, warmup_steps=1))
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.learner.named_parameters():
        assert rates.pop(id(parameter)) == pytest.approx(5e-5 if name.startswith("network.backbone.") else 5e-4)
    assert not rates


def test_gradients_are_clipped_and_the_average_follows(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, replace(CONFIG, ema_decay=0.75, warmup_steps=1, clip_norm=0.5), SMALL_CONFIG, SMALL_CATEGORIES)
    before = {name: value.clone() for name, value in trainer.average.state_dict().items() if value.is_floating_point()}
    batch = collate([Views(two_squares, 2, [], CONFIG, SMALL_CONFIG.preprocess)[n] for n in range(2)])
    values = trainer.train_step([batch])
    gradients = [parameter.grad for parameter in trainer.learner.parameters() if parameter.grad is not None]
    assert values["gradient"] > 0.5  # as it was
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(0.5, rel=1e-3)
    # A young average forgets: its decay is 1 / 10 after the first step.
    now = trainer.network.state_dict()
    moved = 0.0
    for name, value in before.items():
        assert torch.allclose(trainer.average.state_dict()[name], value + 0.9 * (now[name] - value), atol=1e-6), name
        moved += float((now[name] - value).abs().sum())
    assert moved > 0


def test_a_failed_save_leaves_the_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = train(tmp_path, replace(CONFIG, steps=1))
    before = (tmp_path / "last.pt").read_bytes()

    def full_disk(state: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        trainer.save()
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not (tmp_path / "last.pt.tmp").exists()


def test_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
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
    assert all(torch.equal(a, b) for a, b in zip(views[3][:3], views[3][:3], strict=True))
    assert not torch.equal(views[3][0], views[5][0])
    stuff_and_square = [set(views[n][2].tolist()) <= {0, 3} for n in range(8)]
    assert sum(stuff_and_square) == 4
    assert stuff_and_square[::2] == [stuff_and_square[0]] * 4


def test_crowded_pictures_are_drawn_more_often_when_asked() -> None:
    empty = replace(two_squares(0), ids=np.zeros((64, 64), np.int32), classes=np.zeros(0, np.int64), crowd=np.zeros(0, bool))
    crowded = replace(two_squares(1), classes=np.zeros(9, np.int64), crowd=np.zeros(9, bool))
    odds = drawing_odds([empty, two_squares(0), crowded].__getitem__, 3, 0.5)
    assert odds == pytest.approx(np.cumsum([1, 2**0.5, 3]) / (4 + 2**0.5))
    views = Views(two_squares, 2, [], replace(CONFIG, steps=50, crowding=1.0), SMALL_CONFIG.preprocess)
    names = [views[n][3] for n in range(40)]
    assert 10 < names.count("square-0") < 30  # both have two segments


def test_a_view_shows_its_sample() -> None:
    sample = two_squares(0)
    settings = Augmentation(scale=(0.5, 0.5001), brightness=0, contrast=0, saturation=0, gamma=0, noise=0)
    view, (height, width) = random_view(sample, 64, np.random.default_rng(0), settings)
    assert (height, width) == (32, 32)
    assert not view.image[32:].any()
    assert not view.ids[:, 32:].any()
    bright = view.image[:32, :32, 0] > 135
    assert (bright == (view.ids[:32, :32] == 2)).mean() > 0.95


@pytest.mark.slow
def test_the_command_trains_and_its_help_explains(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--scenes", "3", "--steps", "2", "--batch-size", "2", "--crop", "64", "--workers", "0", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert Predictor.load(out / "model").config.classes == len(Predictor.load(out / "model").categories) == 14
    for wrong, message in (
        (["--crop", "50"], "must be a multiple of 32"),
        (["--scenes", "0"], "no training data"),
        (["--data", str(tmp_path / "nowhere")], "no data set at"),
        (["--resume", "--seed", "5"], "another configuration"),
    ):
        result = CliRunner().invoke(main, [*arguments, *wrong])
        assert result.exit_code != 0
        assert message in result.output
