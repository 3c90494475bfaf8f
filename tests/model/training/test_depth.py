"""Stochastic depth over the encoder's last stage: off it changes nothing, on every depth answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.config import MASK2FORMER, ModelConfig, ProScaleEncoderConfig
from proscale.errors import DataError
from proscale.network import SegmentationNetwork
from proscale.training.config import LossConfig, TrainingConfig
from proscale.training.depth import drawn_depth, run_at_depth
from proscale.training.loop import Trainer
from proscale.training.sample import Sample

CONFIG = TrainingConfig(steps=4, batch_size=2, crop=64, warmup_steps=1, losses=LossConfig(points=64))
DEEP = replace(SMALL_CONFIG, pixel_decoder=replace(SMALL_CONFIG.pixel_decoder, encoder=ProScaleEncoderConfig((1, 1, 3))))


def square(index: int) -> Sample:
    image, ids = np.full((64, 64, 3), 40, np.uint8), np.full((64, 64), 1, np.int32)
    image[8:40, 8:40], ids[8:40, 8:40] = 200, 2
    return Sample(image, ids, np.array([3, 0]), np.zeros(2, bool))


def trained(folder: Path, config: TrainingConfig, model: ModelConfig = DEEP) -> Trainer:
    trainer = Trainer(folder, config, model, SMALL_CATEGORIES)
    trainer.run(square, 1, [], workers=0, progress=False)
    return trainer


@pytest.mark.slow
def test_training_at_full_depth_only_equals_training_without_depths(tmp_path: Path) -> None:
    without = trained(tmp_path / "without", CONFIG)
    full = trained(tmp_path / "full", replace(CONFIG, depth_weights=(0.0, 0.0, 1.0)))
    for name, value in without.network.state_dict().items():
        assert torch.equal(value, full.network.state_dict()[name]), name


@pytest.mark.slow
def test_every_depth_is_trained_and_predicts(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=12, depth_weights=(1.0, 1.0, 2.0))
    depths = [drawn_depth(config, step) for step in range(config.steps)]
    assert set(depths) == {1, 2, 3}
    trainer = trained(tmp_path, config)
    network = SegmentationNetwork(DEEP).eval()
    network.load_state_dict(trainer.network.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    answers = []
    for depth in (1, 2, 3, None):
        run_at_depth(network, depth)
        with torch.inference_mode():
            answers.append(network.predict(images).mask_logits)
    assert torch.equal(answers[2], answers[3])
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert torch.isfinite(answers[one]).all()
        assert not torch.equal(answers[one], answers[other])


def test_deeper_ones_are_drawn_as_often_as_weighted() -> None:
    config = replace(CONFIG, depth_weights=(1.0, 0.0, 3.0))
    depths = [drawn_depth(config, step) for step in range(400)]
    assert depths.count(2) == 0
    assert 60 < depths.count(1) < 140


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 0.0), (-1.0, 1.0, 1.0)])
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the last stage has 3 layers, so there must be 3"):
        trained(tmp_path, replace(CONFIG, depth_weights=weights))


def test_mask2formers_encoder_has_no_stages(tmp_path: Path) -> None:
    model = replace(SMALL_CONFIG, pixel_decoder=replace(SMALL_CONFIG.pixel_decoder, encoder=MASK2FORMER.encoder))
    with pytest.raises(DataError, match="PRO-SCALE's encoder alone"):
        trained(tmp_path, replace(CONFIG, depth_weights=(1.0,)), model)
