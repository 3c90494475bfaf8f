"""Swin: windows, shifts, sizes that windows do not divide."""

import pytest
import torch

from proscale.backbones.swin import SwinBlock, SwinTransformer, relative_position_index, to_windows, window_layout
from proscale.config import SWIN_B, SWIN_L, SWIN_S, SWIN_T, SwinConfig


def slow_attention(block: SwinBlock, x: torch.Tensor) -> torch.Tensor:
    """A block's windows the plain way: pad, roll, cut, explicit weights, a mask from where each token came from; and all of it back."""
    window, shift, heads = block.window, block.shift, block.attention.heads
    batch, height, width, channels = x.shape
    down, across = -(-height // window), -(-width // window)
    padded = x.new_zeros(batch, down * window, across * window, channels)
    padded[:, :height, :width] = block.norm1(x)
    rows, columns = torch.meshgrid(torch.arange(down * window), torch.arange(across * window), indexing="ij")
    wrapped = torch.stack([rows < shift, columns < shift], -1)[None].double()
    tokens, wrapped = (to_windows(t.roll((-shift, -shift), (1, 2)), window) for t in (padded, wrapped))
    query, key, value = block.attention.qkv(tokens).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    bias = block.attention.relative_position_bias[relative_position_index(window)].permute(2, 0, 1)
    scores = query @ key.transpose(-1, -2) / (channels / heads) ** 0.5 + bias
    # Rolling brings the first rows and columns to the far end; there they meet tokens from the other side of the picture.
    strangers = (wrapped[:, :, None] != wrapped[:, None]).any(-1).repeat(batch, 1, 1)[:, None]
    attended = (scores - 100.0 * strangers).softmax(-1) @ value
    out = block.attention.projection(attended.transpose(1, 2).flatten(2)).view(batch, down, across, window, window, channels)
    out = out.transpose(2, 3).reshape(padded.shape).roll((shift, shift), (1, 2))[:, :height, :width]
    x = x + out
    return x + block.mlp(block.norm2(x))


def test_relative_positions_pair_by_pair() -> None:
    window = 3
    index = relative_position_index(window)
    for i in range(window**2):
        for j in range(window**2):
            dy, dx = i // window - j // window, i % window - j % window
            assert index[i, j] == (dy + window - 1) * (2 * window - 1) + dx + window - 1


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(2, 3), (7, 7), (7, 20), (23, 9), (21, 28)])
def test_a_block_agrees_with_the_reference(size: tuple[int, int], shift: int) -> None:
    """Also on maps smaller than a window, which does not shrink."""
    block = SwinBlock(8, 2, window=7, shift=shift)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, *size, 8)
    expected = slow_attention(block, x)
    assert torch.allclose(block(x), expected, atol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(block(x), expected, atol=1e-4)


def test_gradients_agree_with_the_reference() -> None:
    block = SwinBlock(8, 2, window=4, shift=2).double()
    x = torch.randn(2, 9, 6, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 9, 6, 8, dtype=torch.float64)
    wanted = torch.autograd.grad((slow_attention(block, x) * weights).sum(), [x, *block.parameters()])
    for got, want in zip(torch.autograd.grad((block(x) * weights).sum(), [x, *block.parameters()]), wanted, strict=True):
        assert torch.allclose(got, want)


def test_every_token_is_in_one_window_and_most_windows_need_no_mask() -> None:
    layout = window_layout(2, 23, 30, 7, 3, torch.device("cpu"))
    assert torch.equal(layout.gather[layout.scatter], torch.arange(2 * 23 * 30))
    padded = 2 * 28 * 35
    assert sorted([*layout.scatter.tolist(), *layout.padding.tolist()]) == list(range(padded))
    assert [(count, mask is None) for count, mask in layout.groups] == [(24, True), (6, False), (8, False), (2, False)]


def test_levels_have_strides_4_to_32() -> None:
    levels = SwinTransformer(SwinConfig(8, (2, 2, 2, 2), (1, 1, 2, 2), 7))(torch.zeros(1, 3, 96, 64))
    assert [tuple(level.shape) for level in levels] == [(1, 8, 24, 16), (1, 16, 12, 8), (1, 32, 6, 4), (1, 64, 3, 2)]


@pytest.mark.parametrize(
    ("config", "millions"), [(SWIN_T, 27.52), (SWIN_S, 48.84), (SWIN_B, 86.88), (SWIN_L, 195.20)], ids=["T", "S", "B", "L"]
)
def test_parameter_counts_of_the_published_sizes(config: SwinConfig, millions: float) -> None:
    with torch.device("meta"):
        network = SwinTransformer(config)
    count = sum(p.numel() for name, p in network.named_parameters() if "output_norms" not in name)
    assert count / 1e6 == pytest.approx(millions, abs=0.02)
