"""The architecture is read from shapes; what they leave open is asked for by name."""

from dataclasses import replace

import pytest
import torch

from proscale.checkpoints.recognise_architecture import backbone_name, encoder_name, recognise
from proscale.config import (
    MASK2FORMER,
    PROSCALE,
    PUBLISHED_BACKBONES,
    SWIN_T,
    Mask2FormerEncoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    ProScaleEncoderConfig,
    TransformerDecoderConfig,
)
from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork

State = dict[str, torch.Tensor]


def meta_state(config: ModelConfig) -> State:
    """Names and shapes of a network, without its memory."""
    with torch.device("meta"):
        return SegmentationNetwork(config).state_dict()


@pytest.mark.parametrize("name", PUBLISHED_BACKBONES)
@pytest.mark.parametrize("pixel_decoder", [MASK2FORMER, PROSCALE], ids=["mask2former", "proscale"])
def test_published_networks_are_recognised(name: str, pixel_decoder: PixelDecoderConfig) -> None:
    config = ModelConfig("x", 133, PUBLISHED_BACKBONES[name], pixel_decoder, TransformerDecoderConfig(queries=200))
    found = recognise(meta_state(config))
    assert (found.backbone, found.pixel_decoder, found.transformer_decoder, found.classes) == (
        config.backbone,
        config.pixel_decoder,
        config.transformer_decoder,
        133,
    )
    assert backbone_name(found.backbone) == name


@pytest.mark.parametrize("layers", [(1, 2, 3), (0, 0, 4), (3, 0, 1), (2, 2, 0)])
@pytest.mark.parametrize("recalibration", ["linear", "conv", "none"])
def test_every_form_of_proscale_is_recognised(layers: tuple[int, int, int], recalibration: str) -> None:
    encoder = ProScaleEncoderConfig(layers, recalibration, 0.3, residual=True)
    config = ModelConfig("x", 7, SWIN_T, replace(PROSCALE, encoder=encoder, pixel_embedding="conv"))
    assert recognise(meta_state(config), temperature=0.3, residual=True).pixel_decoder == config.pixel_decoder


def test_three_levels_throughout_without_gate_is_mask2former() -> None:
    encoder = ProScaleEncoderConfig((0, 0, 4), "none")
    state = meta_state(ModelConfig("x", 7, SWIN_T, replace(PROSCALE, encoder=encoder)))
    assert recognise(state).pixel_decoder.encoder == Mask2FormerEncoderConfig(4)


def test_other_numbers_of_heads_are_asked_for() -> None:
    config = ModelConfig("x", 7, SWIN_T, replace(PROSCALE, heads=4, points=2), TransformerDecoderConfig(heads=4))
    state = meta_state(config)
    with pytest.raises(CheckpointError, match=r"layer 0 has 16 sampling offsets.* give a configuration that says how many heads"):
        recognise(state)
    assert recognise(state, heads=4, points=2).pixel_decoder == config.pixel_decoder


def without(state: State, start: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("transformer_decoder.query_features", "not a whole network: transformer_decoder.query_features is missing"),
        ("transformer_decoder.layers.4.", r"not a whole network: transformer_decoder.layers.4.\* missing"),
        ("transformer_decoder.layers.", r"not a whole network: transformer_decoder.layers.0.\* missing"),
        ("backbone.stages.2.blocks.3.", r"not a whole network: backbone.stages.2.blocks.3.\* missing"),
        ("backbone.", "the backbone is neither a Swin nor a plain ResNet; it has no tensors"),
        ("backbone.patch_embedding.", "the backbone is neither a Swin nor a plain ResNet; it has output_norms, stages"),
        ("pixel_decoder.encoder.layers.", r"not a whole network: pixel_decoder.encoder.layers.0.\* missing"),
    ],
)
def test_what_is_missing_is_named(start: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        recognise(without(meta_state(ModelConfig("x", 7, SWIN_T)), start))


def test_windows_of_different_sizes_are_refused() -> None:
    state = meta_state(ModelConfig("x", 7, SWIN_T))
    state["backbone.stages.1.blocks.0.attention.relative_position_bias"] = torch.zeros(121, 6)
    with pytest.raises(CheckpointError, match="not those of one window size"):
        recognise(state)


def test_an_encoder_that_sees_fewer_levels_later_is_refused() -> None:
    state = meta_state(ModelConfig("x", 7, SWIN_T))
    first, last = (f"pixel_decoder.encoder.layers.{i}.attention.sampling_offsets.weight" for i in (0, 8))
    state[first], state[last] = state[last], state[first]
    with pytest.raises(CheckpointError, match=r"see \[3, 1, 1, 2, 2, 2, 3, 3, 1\] levels"):
        recognise(state)


def test_encoders_have_readable_names() -> None:
    assert encoder_name(Mask2FormerEncoderConfig()) == "Mask2Former (6 layers)"
    assert encoder_name(ProScaleEncoderConfig()) == "PRO-SCALE (3, 3, 3)"
