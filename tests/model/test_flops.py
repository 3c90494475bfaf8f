"""FLOP counts: the published figures, and torch's own counter on real forward passes."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from proscale import flops
from proscale.config import (
    MASK2FORMER,
    PROSCALE,
    RESNET_50,
    SWIN_T,
    ModelConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    SwinConfig,
    Task,
    TransformerDecoderConfig,
)
from proscale.flops import baseline_config, count_flops
from proscale.network import SegmentationNetwork

COCO_640x480 = ((800, 1088), (480, 640))


def config(pixel_decoder: PixelDecoderConfig, backbone: ResNetConfig | SwinConfig = SWIN_T) -> ModelConfig:
    return ModelConfig("test", 133, backbone, pixel_decoder)


def proscale(*layers: int) -> PixelDecoderConfig:
    p1, p2, p3 = layers
    return PixelDecoderConfig(ProScaleEncoderConfig((p1, p2, p3)))


@pytest.mark.parametrize(
    ("model", "gflops"),
    [
        (config(MASK2FORMER), 229.2),
        (config(PROSCALE), 168.2),
        (config(proscale(1, 1, 1)), 134.3),
        (config(proscale(2, 2, 2)), 151.3),
        (config(proscale(4, 4, 4)), 185.1),
        (config(MASK2FORMER, RESNET_50), 223.4),
        (config(PROSCALE, RESNET_50), 162.3),
    ],
)
def test_totals_at_800x1088(model: ModelConfig, gflops: float) -> None:
    assert count_flops(model, *COCO_640x480).total / 1e9 == pytest.approx(gflops, rel=0.02)


@pytest.mark.parametrize(
    ("part", "at_800x1088", "at_1024x1024"),
    [
        ("backbone", (81.3, 81.3), (98.9, 98.9)),
        ("encoder", (79.7, 50.7), (96.0, 61.1)),
        ("pixel_embedding", (32.2, 0.07), (38.7, 0.08)),
        ("pixel_decoder_rest", (6.2, 6.2), (7.5, 7.5)),
        ("mask_prediction", (14.1, 14.1), (17.0, 17.0)),
        ("transformer_decoder", (11.1, 11.1), (13.1, 13.1)),
        ("postprocess", (4.6, 4.6), (14.8, 14.8)),
        ("total", (229.2, 168.2), (286.0, 212.5)),
    ],
)
def test_parts_of_swin_t(part: str, at_800x1088: tuple[float, float], at_1024x1024: tuple[float, float]) -> None:
    for model, small, large in zip((config(MASK2FORMER), config(PROSCALE)), at_800x1088, at_1024x1024, strict=True):
        # Figures with one significant digit are rounded by up to 7%.
        assert getattr(count_flops(model, *COCO_640x480), part) / 1e9 == pytest.approx(small, rel=0.02, abs=0.005)
        assert getattr(count_flops(model, (1024, 1024)), part) / 1e9 == pytest.approx(large, rel=0.02, abs=0.005)


def test_savings_of_the_published_configuration() -> None:
    model, baseline = (count_flops(c, *COCO_640x480) for c in (config(PROSCALE), baseline_config(config(PROSCALE))))
    assert baseline == count_flops(config(MASK2FORMER), *COCO_640x480)
    assert 1 - model.pixel_decoder / baseline.pixel_decoder == pytest.approx(0.517, abs=0.001)
    assert 1 - model.total / baseline.total == pytest.approx(0.266, abs=0.001)


@pytest.mark.parametrize("size", [(1024, 2048)])
def test_pixel_decoder_at_cityscapes_size(size: tuple[int, int]) -> None:
    for layers, gflops in ((MASK2FORMER, 281.1), (PROSCALE, 135.3), (proscale(1, 1, 1), 55.13)):
        assert count_flops(config(layers), size).pixel_decoder / 1e9 == pytest.approx(gflops, rel=0.02)


@pytest.mark.parametrize(
    ("backbone", "pixel_decoder", "size"),
    [
        (ResNetConfig(8, 16, 8, (1, 2, 1, 1)), PixelDecoderConfig(ProScaleEncoderConfig((1, 2, 1), "none"), 32, 4, 2, 48), (96, 160)),
        (SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 7), replace(MASK2FORMER, hidden_dim=32, heads=4, ffn_dim=48), (128, 192)),
    ],
    ids=["resnet-proscale", "swin-mask2former"],
)
def test_products_are_those_that_torch_counts(
    backbone: ResNetConfig | SwinConfig, pixel_decoder: PixelDecoderConfig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch counts matrix products and convolutions, 2 FLOPs each, and nothing else: without norms and sampling we must be equal."""
    monkeypatch.setattr(flops, "NORM", 0)
    monkeypatch.setattr(flops, "BILINEAR", 0)
    model = ModelConfig("test", 7, backbone, pixel_decoder, TransformerDecoderConfig(4, 10, 24, 4))
    network = SegmentationNetwork(model).eval().requires_grad_(False)
    # The counter does not know the CPU's fused attention; the plain form is the same two products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *size))
    assert count_flops.__wrapped__(model, size, tasks=()).total == counter.get_total_flops() / 2


def test_only_what_is_asked_for_is_counted() -> None:
    model = config(PROSCALE)
    panoptic, semantic = (count_flops(model, *COCO_640x480, tasks=(task,)) for task in ("panoptic", "semantic"))
    assert semantic.total - panoptic.total == 100 * 133 * 480 * 640


def test_semantic_scores_that_are_combined_first_are_summed_at_the_networks_size() -> None:
    after = config(PROSCALE)
    first = replace(after, postprocess=PostprocessConfig(combine_first=True))
    padded, output = (64, 96), (30, 40)
    queries, classes, inside, outside = 100, 133, 64 * 96, 30 * 40
    masks = queries * inside * 4

    def cost(model: ModelConfig, *tasks: Task) -> int:
        return count_flops(model, padded, output, tasks).postprocess

    assert cost(first, "semantic") == masks + classes * (queries * inside + outside * 4)
    assert cost(after, "semantic") == masks + queries * outside * (4 + classes)
    assert cost(first, "panoptic") == cost(after, "panoptic") == masks + queries * outside * 4
    assert cost(first, "panoptic", "semantic") == cost(first, "semantic") + queries * outside * 4
