"""What every test shares: small models, and the rule that nothing is skipped unseen."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from proscale.checkpoints.folder import save_folder
from proscale.config import (
    ModelConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    PreprocessConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    TransformerDecoderConfig,
)
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor

SMALL_CONFIG = ModelConfig(
    name="small random model",
    classes=5,
    backbone=ResNetConfig(stem_channels=8, res2_channels=16, bottleneck_channels=8, blocks=(1, 1, 1, 1)),
    pixel_decoder=PixelDecoderConfig(ProScaleEncoderConfig((1, 1, 1)), hidden_dim=32, heads=4, ffn_dim=32),
    transformer_decoder=TransformerDecoderConfig(layers=3, queries=12, ffn_dim=32, heads=4),
    preprocess=PreprocessConfig(short_side=96, long_side=192),
    # Random weights are sure of nothing: thresholds at which they still give segments.
    postprocess=PostprocessConfig(threshold=0.05, overlap_threshold=0.0, instance_threshold=0.02),
)
SMALL_CATEGORIES = (
    Category(1, "cat", True),
    Category(3, "dog", True),
    Category(7, "ball", True),
    Category(100, "grass", False),
    Category(120, "sky", False),
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With NO_SKIPS=1 a skipped test fails, those that need CUDA or containers aside: where all tools are, nothing may go unseen."""
    report = yield
    excused = any(item.get_closest_marker(name) for name in ("gpu", "nvcc", "docker"))
    if os.environ.get("NO_SKIPS") == "1" and report.skipped and not excused:
        report.outcome, report.longrepr = "failed", f"skipped although NO_SKIPS=1: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights: quick, and different for every query."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = SegmentationNetwork(SMALL_CONFIG)
        with torch.no_grad():  # fresh heads say nearly the same for every query
            network.transformer_decoder.class_head.weight.mul_(8)
            network.transformer_decoder.mask_head.layers[-1].weight.mul_(8)
    save_folder(folder, SMALL_CONFIG, SMALL_CATEGORIES, network.state_dict())
    return folder


@pytest.fixture(scope="session")
def small_predictor(small_checkpoint: Path) -> Predictor:
    """A predictor of `small_checkpoint`."""
    return Predictor.load(small_checkpoint)


@pytest.fixture
def picture() -> np.ndarray:
    """(60, 80, 3) uint8: a smooth picture with a little noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:60, :80]
    smooth = np.stack([x * 3, y * 4, 255 - x - y], -1)
    return (smooth + rng.integers(0, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
