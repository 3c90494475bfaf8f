"""Builds the small models of the tests: their configuration, their categories, a network with random weights."""

import torch

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


def small_network(seed: int = 7) -> SegmentationNetwork:
    """A network of `SMALL_CONFIG` with random weights whose queries differ from each other."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SegmentationNetwork(SMALL_CONFIG)
        with torch.no_grad():  # untrained heads answer nearly the same for every query
            network.transformer_decoder.class_head.weight.mul_(8)
            network.transformer_decoder.mask_head.layers[-1].weight.mul_(8)  # type: ignore[operator]
    return network
