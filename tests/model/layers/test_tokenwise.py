"""Chunks of tokens."""

import pytest
import torch
from torch import Tensor, nn

from proscale.layers import tokenwise


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_chunks_agree_with_the_whole(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenwise, "CHUNK_BYTES", 1)  # 64 tokens at a time
    norm, seen = nn.LayerNorm(8), []

    def function(x: Tensor) -> Tensor:
        seen.append(x.numel() // 8)
        return norm(x) * 2

    x = torch.randn(1, tokens, 8)
    with torch.inference_mode():
        out = tokenwise.in_chunks(function, x, 32)
        assert max(seen) <= 64
        assert sum(seen) == tokens
        assert torch.allclose(out, norm(x) * 2)
    assert tokenwise.in_chunks(function, x, 32).requires_grad
    assert seen[-1] == tokens
