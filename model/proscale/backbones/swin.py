"""Swin transformer (Liu et al. 2021, arXiv 2103.14030) as Mask2Former uses it: no absolute position, a LayerNorm per output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import SwinConfig
from proscale.layers.linear import apply_linear, apply_two, linear, normed, zero_of
from proscale.layers.tokenwise import add_into, in_chunks
from proscale.ops.constants import constant_tensor
from proscale.ops.window_attention import window_attention

PATCH = 4
MLP_RATIO = 4


@constant_tensor(maxsize=8)
def relative_position_index(window: int, device: torch.device | None = None) -> Tensor:
    """Row of the bias table for every pair of tokens of a window.

    Returns:
        (window**2, window**2) int64 in [0, (2 * window - 1)**2); entry [i, j] is for query i and key j.
    """
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None] + window - 1
    dx = x[:, None] - x[None] + window - 1
    return (dy * (2 * window - 1) + dx).to(device or torch.device("cpu"))


@dataclass(frozen=True)
class Windows:
    """How the tokens of a map are distributed over windows, and put back.

    Windows come in groups that share one mask, so that no mask is held per window: all but those at the edges of a shifted map need none.
    """

    gather: Tensor
    """(B * windows * window**2,) int64: row of the flattened map (B * H * W) for every window's token; 0 where it is padding."""
    padding: Tensor
    """(P,) int64: the windows' tokens that are padding."""
    scatter: Tensor
    """(B * H * W,) int64: the window's token for every row of the map."""
    groups: list[tuple[int, Tensor | None]]
    """Number of windows, in order, and which of their tokens may attend to which: (window**2, window**2) bool, None = all."""


def window_layout(batch: int, height: int, width: int, window: int, shift: int, device: torch.device) -> Windows:
    """Windows of `window` x `window` tokens over maps that are padded right and bottom, and rolled up and left by `shift`.

    In a shifted map the last row and column of windows hold tokens from opposite sides of the picture, which must not attend to
    each other (arXiv 2103.14030, section 3.2).

    Args:
        batch, height, width: of the maps in tokens, before padding.
    """
    down, across = -(-height // window), -(-width // window)
    groups: list[tuple[int, Tensor | None]] = [(batch * down * across, None)]
    if shift:
        edges = ((False, False, (down - 1) * (across - 1)), (False, True, down - 1), (True, False, across - 1), (True, True, 1))
        groups = [
            (batch * count, edge_mask(window, shift, bottom, right, device) if bottom or right else None)
            for bottom, right, count in edges
            if count
        ]
    size = (batch, height, width, window, shift, device)
    return Windows(_gather(*size), _padding(*size), _scatter(*size), groups)


@constant_tensor(maxsize=64)
def window_tokens(batch: int, height: int, width: int, window: int, shift: int) -> Tensor:
    """(B * windows * window**2,) int64: the row of the flattened maps behind every window's token, -1 for padding, group by group."""
    down, across = -(-height // window), -(-width // window)
    rows, columns = (torch.arange(n * window).roll(-shift) for n in (down, across))
    inside = (rows < height)[:, None] & (columns < width)
    tokens = to_windows(torch.where(inside, rows[:, None] * width + columns, -1)[None, :, :, None], window).view(down, across, -1)
    parts = [tokens.flatten(0, 1)]
    if shift:
        halves = (slice(0, -1), slice(-1, None))
        parts = [tokens[vertical, horizontal].flatten(0, 1) for vertical in halves for horizontal in halves]
    first = torch.arange(batch)[:, None, None] * (height * width)
    return torch.cat([torch.where(part < 0, -1, part + first).flatten() for part in parts])


@constant_tensor(maxsize=64)
def _gather(batch: int, height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    return window_tokens(batch, height, width, window, shift).clamp_min(0).to(device)


@constant_tensor(maxsize=64)
def _padding(batch: int, height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    return (window_tokens(batch, height, width, window, shift) < 0).nonzero().flatten().to(device)


@constant_tensor(maxsize=64)
def _scatter(batch: int, height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    tokens = window_tokens(batch, height, width, window, shift)
    real = (tokens >= 0).nonzero().flatten()
    scatter = torch.empty(batch * height * width, dtype=torch.int64)
    scatter[tokens[real]] = real
    return scatter.to(device)


@constant_tensor(maxsize=64)
def edge_mask(window: int, shift: int, bottom: bool, right: bool, device: torch.device) -> Tensor:
    """(window**2, window**2) bool for a window at the bottom or right edge of a shifted map, True where attention may go."""
    position = torch.arange(window)
    below, beside = ((position >= window - shift) & edge for edge in (bottom, right))
    region = (below[:, None].long() * 2 + beside[None].long()).flatten()
    return (region[:, None] == region[None, :]).to(device)


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) with H, W multiples of `window` -> (B * windows, window**2, C), windows row-major."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows with a learnt bias per relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.relative_position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)

    def forward(self, x: Tensor, groups: Sequence[tuple[int, Tensor | None]]) -> Tensor:
        """Args: x (B * windows, window**2, C), groups of windows in order and their masks (`Windows.groups`). Returns x's shape."""
        index = relative_position_index(self.window, x.device)
        bias = self.relative_position_bias[index].permute(2, 0, 1).contiguous()  # (heads, window**2, window**2)
        # Blocked pairs get -100 as in the original, not minus infinity: exp(-100) is what its trained weights have seen.
        biases = [(count, bias if allowed is None else torch.where(allowed, bias, bias - 100.0)) for count, allowed in groups]
        return apply_linear(self.projection, window_attention(apply_linear(self.qkv, x), biases))


class SwinMLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, MLP_RATIO * dim)
        self.linear2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return apply_two(self.linear1, self.linear2, x, "gelu")


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
        batch, height, width, channels = x.shape
        layout = window_layout(batch, height, width, self.window, self.shift, x.device)
        # Padding is zero after the norm, and takes part in attention like any token.
        tokens = normed(self.norm1, self.attention.qkv, x.reshape(-1, channels)).index_select(0, layout.gather)
        tokens = tokens.index_fill_(0, layout.padding, zero_of(self.attention.qkv)).view(-1, self.window**2, channels)
        tokens = self.attention(tokens, layout.groups).view(-1, channels)
        x = add_into(tokens.index_select(0, layout.scatter).view_as(x), x)
        return in_chunks(self._feed_forward, x, MLP_RATIO * channels)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return add_into(self.mlp(normed(self.norm2, self.mlp.linear1, x)), x)


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
        return apply_linear(self.reduction, normed(self.norm, self.reduction, x))


class PatchEmbedding(nn.Module):
    """4x4 patches -> channels, normed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, dim)."""
        # A convolution whose patches do not overlap is a matrix product, and that leaves channels last.
        patches = x.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        out: Tensor = self.norm(linear(patches, self.projection.weight.flatten(1), self.projection.bias))
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
            levels.append(norm(x).permute(0, 3, 1, 2))  # in channels_last, which all that follows keeps
            if stage.downsample is not None:
                x = stage.downsample(x)
        return levels


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
