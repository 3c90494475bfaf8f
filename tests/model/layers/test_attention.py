"""Attention against torch's own module, and the rule for queries that may look nowhere."""

import torch
from torch import nn

from proscale.layers.attention import MultiHeadAttention, unblock_empty_rows


def test_equals_torch_multihead_attention_with_the_same_weights() -> None:
    ours, theirs = MultiHeadAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_projection.weight,
            "in_proj_bias": ours.in_projection.bias,
            "out_proj.weight": ours.out_projection.weight,
            "out_proj.bias": ours.out_projection.bias,
        }
    )
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    allowed = unblock_empty_rows(torch.rand(2, 5, 7) > 0.5)
    expected, _ = theirs(query, key, value, attn_mask=~allowed.repeat_interleave(4, 0))
    assert torch.allclose(ours(query, key, value, allowed), expected, atol=1e-6)


def test_a_fully_masked_query_attends_to_everything() -> None:
    allowed = torch.tensor([[[True, False], [False, False]]])
    assert unblock_empty_rows(allowed).tolist() == [[[True, False], [True, True]]]
