"""Swin transformer (Liu et al. 2021, arXiv 2103.14030) as Mask2Former uses it: no absolute position, a LayerNorm per output."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import SwinConfig
from proscale.ops.constants import constant_tensor

PATCH = 4
MLP_RATIO = 4


@constant_tensor(maxsize=8)
def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every pair of tokens of a window.

    Returns:
        (window**2, window**2) int64 in [0, (2 * window - 1)**2); entry [i, j] is for query i and key j.
    """
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None] + window - 1
    dx = x[:, None] - x[None] + window - 1
    return dy * (2 * window - 1) + dx


@constant_tensor(maxsize=64)
def shifted_window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Which tokens of a shifted window are true neighbours in the picture (arXiv 2103.14030, section 3.2).

    Args:
        height, width: of the padded map in tokens, multiples of `window`.

    Returns:
        (windows, window**2, window**2) bool, True where attention may go.
    """

    def region(length: int) -> Tensor:
        position = torch.arange(length)
        return (position >= length - window).long() + (position >= length - shift).long()

    regions = region(height)[:, None] * 3 + region(width)[None]
    tokens = to_windows(regions[None, :, :, None], window).squeeze(-1)
    return tokens[:, :, None] == tokens[:, None, :]


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) with H, W multiples of `window` -> (B * windows, window**2, C), windows row-major."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The reverse of `to_windows`: (B * windows, window**2, C) -> (B, H, W, C)."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows with a learnt bias per relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.relative_position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Args: x (B * windows, window**2, C), allowed (windows, window**2, window**2) bool or None. Returns x's shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        index = relative_position_index(self.window).to(x.device)
        bias = self.relative_position_bias[index].permute(2, 0, 1)  # (heads, window**2, window**2)
        if allowed is None:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        else:
            windows = allowed.shape[0]
            # Blocked pairs get -100 as in the original, not minus infinity: exp(-100) is what its trained weights have seen.
            mask = bias[None] + allowed.logical_not()[:, None].to(bias.dtype) * -100.0
            mask = mask.repeat(x.shape[0] // windows, 1, 1, 1)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        projected: Tensor = self.projection(out.transpose(1, 2).flatten(2))
        return projected


class SwinMLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, MLP_RATIO * dim)
        self.linear2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        out: Tensor = self.linear2(F.gelu(self.linear1(x)))
        return out


class SwinBlock(nn.Module):
    """Window attention and MLP, pre-norm; odd blocks shift their windows by half a window."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = SwinMLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        _, height, width, _ = x.shape
        pad_y, pad_x = -height % self.window, -width % self.window
        # Zeros are padded after the norm; they take part in attention like any token. The window never shrinks.
        tokens = F.pad(self.norm1(x), (0, 0, 0, pad_x, 0, pad_y))
        allowed = None
        if self.shift:
            allowed = shifted_window_mask(height + pad_y, width + pad_x, self.window, self.shift).to(x.device)
            tokens = tokens.roll((-self.shift, -self.shift), (1, 2))
        tokens = self.attention(to_windows(tokens, self.window), allowed)
        tokens = from_windows(tokens, self.window, height + pad_y, width + pad_x)
        if self.shift:
            tokens = tokens.roll((self.shift, self.shift), (1, 2))
        x = x + tokens[:, :height, :width]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerging(nn.Module):
    """2x2 neighbours side by side, normed, halved in channels: stride x 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # Order of the published weights: top-left, bottom-left, top-right, bottom-right.
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        out: Tensor = self.reduction(self.norm(x))
        return out


class PatchEmbedding(nn.Module):
    """4x4 patches -> channels, normed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, dim)."""
        out: Tensor = self.norm(self.projection(x).permute(0, 2, 3, 1))
        return out


class SwinStage(nn.Module):
    """Blocks at one stride, and the merging that leads to the next (none after the last)."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(SwinBlock(dim, heads, window, shift=window // 2 if i % 2 else 0) for i in range(depth)))
        self.downsample = None if last else PatchMerging(dim)


class SwinTransformer(nn.Module):
    """Patch embedding and four stages; each output is normed on its own while the un-normed map goes on."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.channels = tuple(config.embed_dim * 2**i for i in range(4))
        self.patch_embedding = PatchEmbedding(config.embed_dim)
        self.stages = nn.ModuleList(
            SwinStage(dim, depth, heads, config.window, last=i == 3)
            for i, (dim, depth, heads) in enumerate(zip(self.channels, config.depths, config.heads, strict=True))
        )
        self.output_norms = nn.ModuleList(nn.LayerNorm(dim) for dim in self.channels)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> res2, res3, res4, res5."""
        x = self.patch_embedding(x)
        levels = []
        for stage, norm in zip(self.stages, self.output_norms, strict=True):
            assert isinstance(stage, SwinStage)
            x = stage.blocks(x)
            levels.append(norm(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return levels


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
