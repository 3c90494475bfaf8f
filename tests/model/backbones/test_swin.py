"""Swin: windows, shifts, sizes that windows do not divide."""

import pytest
import torch

from proscale.backbones.swin import SwinBlock, SwinTransformer, from_windows, relative_position_index, shifted_window_mask, to_windows
from proscale.config import SWIN_B, SWIN_L, SWIN_S, SWIN_T, SwinConfig


def test_windows_there_and_back() -> None:
    x = torch.randn(2, 6, 9, 4)
    windows = to_windows(x, 3)
    assert windows.shape == (12, 9, 4)
    assert torch.equal(windows[1], x[0, :3, 3:6].reshape(9, 4))
    assert torch.equal(from_windows(windows, 3, 6, 9), x)


def test_relative_positions_pair_by_pair() -> None:
    window = 3
    index = relative_position_index(window)
    for i in range(window**2):
        for j in range(window**2):
            dy, dx = i // window - j // window, i % window - j % window
            assert index[i, j] == (dy + window - 1) * (2 * window - 1) + dx + window - 1


def test_shifted_windows_only_join_tokens_that_are_neighbours_in_the_picture() -> None:
    height, width, window, shift = 8, 12, 4, 2
    allowed = shifted_window_mask(height, width, window, shift)
    # Where each token of the rolled map came from; tokens that wrapped around are not neighbours of those that did not.
    rows, columns = (torch.arange(n).roll(-shift) for n in (height, width))
    origin = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)[None].float()
    for tokens, mask in zip(to_windows(origin, window), allowed, strict=True):
        distance = (tokens[:, None] - tokens[None]).abs().amax(-1)
        assert torch.equal(mask, distance < window)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_block_on_a_map_smaller_than_its_window(shift: int) -> None:
    block = SwinBlock(8, 2, window=7, shift=shift).eval()
    x = torch.randn(1, 2, 3, 8)
    with torch.inference_mode():
        out = block(x)
        # The slow twin: pad by hand, attend with explicit weights over one whole window.
        padded = torch.zeros(1, 7, 7, 8)
        padded[:, :2, :3] = block.norm1(x)
        rolled = padded.roll((-shift, -shift), (1, 2)).view(49, 8)
        query, key, value = block.attention.qkv(rolled).view(49, 3, 2, 4).permute(1, 2, 0, 3)
        weights = query @ key.transpose(1, 2) / 2 + block.attention.relative_position_bias[relative_position_index(7)].permute(2, 0, 1)
        if shift:
            weights = weights.masked_fill(~shifted_window_mask(7, 7, 7, shift), -100)
        attended = block.attention.projection((weights.softmax(-1) @ value).transpose(0, 1).reshape(49, 8))
        expected = x + attended.view(1, 7, 7, 8).roll((shift, shift), (1, 2))[:, :2, :3]
        expected = expected + block.mlp(block.norm2(expected))
    assert torch.allclose(out, expected, atol=1e-5)


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
