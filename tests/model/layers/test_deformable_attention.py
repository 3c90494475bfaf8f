"""Where fresh deformable attention looks."""

import torch

from proscale.layers.deformable_attention import DeformableAttention


def test_heads_start_in_directions_of_their_own_at_growing_distance() -> None:
    layer = DeformableAttention(dim=16, heads=4, levels=2, points=3)
    offsets = layer.sampling_offsets(torch.randn(16)).view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    expected = directions[:, None, None] * torch.arange(1, 4)[:, None]
    assert torch.allclose(offsets, expected.expand(4, 2, 3, 2), atol=1e-6)


def test_output_depends_on_position_through_the_query_only() -> None:
    layer = DeformableAttention(dim=16, heads=4, levels=1, points=2)
    with torch.no_grad():
        layer.sampling_offsets.weight.normal_()
        value = torch.randn(1, 6, 16)
        moved = layer(value + 1, value, [2, 3])
        assert not torch.allclose(moved, layer(value, value, [2, 3]))
        assert torch.allclose(
            layer(value, 2 * value, [2, 3]) - layer(value, value, [2, 3]),
            layer(value, value, [2, 3]) - layer(value, 0 * value, [2, 3]),
            atol=1e-5,
        )
