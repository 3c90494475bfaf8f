"""The decoder: levels in turn, predictions asked for, masks that steer attention."""

import torch

from proscale.config import TransformerDecoderConfig
from proscale.transformer_decoder import TransformerDecoder

LEVELS = [torch.randn(2, 32, 2, 3), torch.randn(2, 32, 4, 6), torch.randn(2, 32, 8, 12)]
MASK_FEATURES = torch.randn(2, 32, 16, 24)


def decoder() -> TransformerDecoder:
    return TransformerDecoder(TransformerDecoderConfig(layers=4, queries=5, ffn_dim=16, heads=4), 32, classes=7).eval()


def test_shapes_and_the_number_of_predictions() -> None:
    network = decoder()
    auxiliary = network(LEVELS, MASK_FEATURES, auxiliary=True)
    assert len(auxiliary) == 5
    for prediction in auxiliary:
        assert prediction.class_logits.shape == (2, 5, 8)
        assert prediction.mask_logits.shape == (2, 5, 16, 24)
    (last,) = network(LEVELS, MASK_FEATURES)
    assert torch.equal(last.mask_logits, auxiliary[-1].mask_logits)
    assert torch.equal(last.class_logits, auxiliary[-1].class_logits)


def test_layer_i_attends_to_level_i_modulo_3() -> None:
    network = decoder()
    changed = [LEVELS[0], LEVELS[1] + 1, LEVELS[2]]
    before, after = (network(levels, MASK_FEATURES, auxiliary=True) for levels in (LEVELS, changed))
    same = [torch.equal(a.class_logits, b.class_logits) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False, False, False]


def test_attention_stays_inside_the_mask() -> None:
    mask_logits = torch.full((1, 2, 8, 8), -5.0)
    mask_logits[0, 0, :4, :4] = 5
    allowed = TransformerDecoder.attention_mask(mask_logits, (2, 2))
    assert allowed.tolist() == [[[True, False, False, False], [True, True, True, True]]]
