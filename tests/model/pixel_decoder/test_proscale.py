"""PRO-SCALE's encoder: what each stage sees, and what gates it."""

from dataclasses import replace
from unittest import mock

import pytest
import torch

from proscale.config import PixelDecoderConfig, ProScaleEncoderConfig
from proscale.pixel_decoder.encoder_layer import EncoderLayer
from proscale.pixel_decoder.proscale import ProScaleEncoder, TokenRecalibration

CONFIG = PixelDecoderConfig(hidden_dim=32, heads=4, points=2, ffn_dim=16)
LEVELS = [torch.randn(2, 32, 2, 3), torch.randn(2, 32, 4, 6), torch.randn(2, 32, 8, 12)]


@pytest.mark.parametrize("layers", [(1, 1, 1), (2, 1, 3), (0, 2, 1), (1, 0, 0)])
def test_token_length_grows_with_depth(layers: tuple[int, int, int]) -> None:
    encoder = ProScaleEncoder(CONFIG, ProScaleEncoderConfig(layers))
    seen = []
    forward = EncoderLayer.forward

    def spy(self: EncoderLayer, tokens: torch.Tensor, position: torch.Tensor, shapes: list[int]) -> torch.Tensor:
        seen.append((tokens.shape[1], len(position), list(shapes)))
        return forward(self, tokens, position, shapes)

    with mock.patch.object(EncoderLayer, "forward", spy):
        outputs = encoder(LEVELS)
    assert [output.shape for output in outputs] == [level.shape for level in LEVELS]
    stages = [(6, 6, [2, 3]), (30, 30, [2, 3, 4, 6]), (126, 126, [2, 3, 4, 6, 8, 12])]
    assert seen == [stage for stage, count in zip(stages, layers, strict=True) for _ in range(count)]


def test_levels_that_no_layer_sees_pass_through_as_they_are() -> None:
    encoder = ProScaleEncoder(CONFIG, ProScaleEncoderConfig((1, 0, 0), "none"))
    outputs = encoder(LEVELS)
    assert not torch.equal(outputs[0], LEVELS[0])
    assert torch.equal(outputs[1], LEVELS[1])
    assert torch.equal(outputs[2], LEVELS[2])


def test_the_finest_level_is_not_gated_and_the_others_are_halved_by_a_zero_gate() -> None:
    encoder = ProScaleEncoder(CONFIG, ProScaleEncoderConfig((0, 0, 0)))
    assert encoder.recalibration is not None
    for parameter in encoder.recalibration.parameters():
        torch.nn.init.zeros_(parameter)
    outputs = encoder(LEVELS)
    assert torch.allclose(outputs[0], LEVELS[0] / 2)
    assert torch.allclose(outputs[1], LEVELS[1] / 2)
    assert torch.equal(outputs[2], LEVELS[2])


def test_residual_adds_the_gated_tokens_after_each_layer_of_the_first_two_stages() -> None:
    config = ProScaleEncoderConfig((1, 1, 1), residual=True)
    encoder = ProScaleEncoder(CONFIG, config)
    plain = ProScaleEncoder(CONFIG, replace(config, residual=False))
    plain.load_state_dict(encoder.state_dict())
    with mock.patch.object(EncoderLayer, "forward", lambda self, tokens, position, shapes: tokens):
        with_residual, without = encoder(LEVELS), plain(LEVELS)
    # Layers that do nothing: res5 is added once in stage 1 and once in stage 2, res4 once in stage 2.
    assert torch.allclose(with_residual[0], 3 * without[0], atol=1e-5)
    assert torch.allclose(with_residual[1], 2 * without[1], atol=1e-5)
    assert torch.equal(with_residual[2], without[2])


def test_linear_recalibration_reads_tokens_as_if_they_were_channels() -> None:
    """The published weights were trained on this mix-up; at the finest level's own size it is a plain reinterpretation of memory."""
    recalibration = TokenRecalibration(4, "linear", temperature=0.5)
    finest = torch.randn(1, 6, 4)
    tokens = torch.randn(1, 6, 4)
    gated = recalibration(tokens, (2, 3), finest, (2, 3))
    assert torch.allclose(gated, tokens * torch.sigmoid(0.5 * recalibration.gate(finest)), atol=1e-6)
    # Resized to one token, each channel is the mean over a run of memory, not over one channel of the picture.
    gated = recalibration(tokens[:, :1], (1, 1), finest, (2, 3))
    means = finest.view(1, 4, 6).mean(-1)
    resized = torch.nn.functional.interpolate(finest.view(1, 4, 2, 3), size=(1, 1), mode="bilinear").flatten(1)
    assert not torch.allclose(means, resized)
    assert torch.allclose(gated[:, 0], tokens[:, 0] * torch.sigmoid(0.5 * recalibration.gate(resized)), atol=1e-6)
