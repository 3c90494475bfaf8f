"""Levels as tokens and back."""

import torch

from proscale.layers.position import sine_position
from proscale.pixel_decoder.tokens import flatten_level, token_positions, unflatten_levels


def test_tokens_become_the_same_levels_again() -> None:
    levels = [torch.randn(2, 4, 2, 3), torch.randn(2, 4, 4, 6)]
    tokens = torch.cat([flatten_level(level) for level in levels], 1)
    assert torch.equal(tokens[1, 6 + 7], levels[1][1, :, 1, 1])
    assert all(torch.equal(a, b) for a, b in zip(unflatten_levels(tokens, [2, 3, 4, 6]), levels, strict=True))


def test_positions_are_sine_plus_level() -> None:
    embedding = torch.randn(3, 8)
    positions = token_positions([2, 3, 4, 6], embedding)
    assert torch.allclose(positions[:6], sine_position(2, 3, 8) + embedding[0])
    assert torch.allclose(positions[6:], sine_position(4, 6, 8) + embedding[1])
