"""Warm start: PRO-SCALE layers take the rows of the levels that they see."""

from dataclasses import replace

import pytest
import torch
from tests.model.checkpoints.test_convert import MASK2FORMER_SMALL, SMALL

from proscale.checkpoints.strict_loading import load_strictly
from proscale.checkpoints.warm_start import keep_levels, source_layers, warm_start
from proscale.config import Mask2FormerEncoderConfig, ProScaleEncoderConfig
from proscale.errors import CheckpointError
from proscale.layers.deformable_attention import DeformableAttention
from proscale.network import SegmentationNetwork


@pytest.mark.parametrize(
    ("new", "old", "sources"),
    [
        (9, 6, (0, 1, 1, 2, 2, 3, 4, 4, 5)),
        (6, 6, (0, 1, 2, 3, 4, 5)),
        (3, 6, (0, 2, 5)),
        (1, 6, (5,)),
        (4, 1, (0, 0, 0, 0)),
        (2, 9, (0, 8)),
    ],
)
def test_layers_are_spread_evenly(new: int, old: int, sources: tuple[int, ...]) -> None:
    assert source_layers(new, old) == sources


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_rows_kept_are_those_of_the_coarse_levels(levels: int) -> None:
    heads, points = 2, 4
    label = [f"{h}.{level}.{p}.{xy}" for h in range(heads) for level in range(3) for p in range(points) for xy in "xy"]
    kept = keep_levels(torch.arange(len(label)), levels, heads, points, 2)
    assert [label[i] for i in kept] == [name for name in label if int(name.split(".")[1]) < levels]


@pytest.mark.parametrize("levels", [1, 2])
def test_reduced_attention_samples_the_same_places(levels: int) -> None:
    """With the finer levels' weights at minus infinity, three-level attention is the cut one."""
    heads, points, dim = 2, 4, 16
    whole, cut = DeformableAttention(dim, heads, 3, points), DeformableAttention(dim, heads, levels, points)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = whole.state_dict()
    for name, width in (("sampling_offsets", 2), ("attention_weights", 1)):
        for leaf in ("weight", "bias"):
            state[f"{name}.{leaf}"] = keep_levels(state[f"{name}.{leaf}"], levels, heads, points, width)
    cut.load_state_dict(state)
    with torch.no_grad():
        whole.attention_weights.bias.view(heads, 3, points)[:, levels:] = -1e4
    shapes = [2, 3, 4, 6, 8, 12]
    tokens = torch.randn(1, 6 + 24 + 96, dim)
    seen = sum(shapes[2 * i] * shapes[2 * i + 1] for i in range(levels))
    expected = whole(tokens, tokens, shapes)[:, :seen]
    actual = cut(tokens[:, :seen], tokens[:, :seen], shapes[: 2 * levels])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recalibration", ["linear", "conv", "none"])
def test_a_warm_started_network_loads_and_runs(recalibration: str) -> None:
    source = SegmentationNetwork(MASK2FORMER_SMALL)
    encoder = ProScaleEncoderConfig((1, 2, 1), recalibration)
    started = warm_start(MASK2FORMER_SMALL, source.state_dict(), encoder)
    assert started.sources == (0, 0, 1, 1)
    assert started.config.pixel_decoder == replace(MASK2FORMER_SMALL.pixel_decoder, encoder=encoder, pixel_embedding="maxpool")
    network = SegmentationNetwork(started.config)
    load_strictly(network, started.state)
    assert torch.isfinite(network.eval()(torch.randn(1, 3, 64, 64)).class_logits).all()
    kept = [name for name in source.state_dict() if name.startswith(("backbone.", "transformer_decoder.", "pixel_decoder.input"))]
    assert kept
    assert all(torch.equal(network.state_dict()[name], source.state_dict()[name]) for name in kept)


def test_with_all_levels_and_no_gate_the_source_is_unchanged() -> None:
    source = SegmentationNetwork(MASK2FORMER_SMALL).eval()
    started = warm_start(MASK2FORMER_SMALL, source.state_dict(), ProScaleEncoderConfig((0, 0, 2), "none"))
    network = SegmentationNetwork(started.config).eval()
    load_strictly(network, started.state)
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(network(image).levels, source(image).levels, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_proscale_source_is_refused() -> None:
    with pytest.raises(CheckpointError, match="needs a Mask2Former checkpoint"):
        warm_start(SMALL, {}, ProScaleEncoderConfig())
    assert isinstance(MASK2FORMER_SMALL.pixel_decoder.encoder, Mask2FormerEncoderConfig)
