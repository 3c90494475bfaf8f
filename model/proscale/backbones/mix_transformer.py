"""Mix Transformer (arXiv 2105.15203, section 3.1): SegFormer's backbone, four stages at strides 4, 8, 16, 32, without positions."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import MixTransformerConfig
from proscale.layers.linear import FixedLinear, apply_linear, linear
from proscale.layers.tokenwise import add_into
from proscale.ops.attention import attention

FIRST_PATCH, FIRST_STRIDE, PATCH, STRIDE = 7, 4, 3, 2


class OverlapPatchEmbedding(nn.Module):
    """A strided convolution whose patches overlap, normed."""

    def __init__(self, channels_in: int, channels: int, patch: int, stride: int, norm_eps: float) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels_in, channels, patch, stride, padding=patch // 2)
        self.norm = nn.LayerNorm(channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H, W) -> (B, ceil(H / stride), ceil(W / stride), C)."""
        out: Tensor = self.norm(self.projection(x).permute(0, 2, 3, 1))
        return out


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values are made of one token per `reduction` x `reduction` square (section 3.1, equation 1)."""

    def __init__(self, dim: int, heads: int, reduction: int, norm_eps: float) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.projection = nn.Linear(dim, dim)
        if reduction > 1:
            self.reduction_conv = nn.Conv2d(dim, dim, reduction, reduction)
            self.reduction_norm = nn.LayerNorm(dim, norm_eps)
        self.product: nn.Linear | None = None
        """`reduction_conv` as a linear layer: a convolution whose squares do not overlap is a product."""

    def fold(self) -> None:
        """Make `product` once, for weights that will not change; without it, it is made anew each time."""
        if self.reduction > 1:
            self.product = FixedLinear(*self._matrix())

    def train(self, mode: bool = True) -> Self:
        """Training may change the weights: `product` goes."""
        if mode:
            self.product = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, _, _, dim = x.shape
        memory = self._reduced(x) if self.reduction > 1 else x.reshape(batch, -1, dim)
        query = apply_linear(self.query, x.reshape(batch, -1, dim)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = apply_linear(self.key_value, memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return apply_linear(self.projection, attention(query, key, value)).view(x.shape)

    def _reduced(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, floor(H / r) * floor(W / r), C); a remainder at the right and bottom is ignored, as published."""
        r, (batch, height, width, dim) = self.reduction, x.shape
        rows, columns = height // r, width // r
        squares = (
            x[:, : rows * r, : columns * r].reshape(batch, rows, r, columns, r, dim).transpose(2, 3).reshape(batch, rows * columns, -1)
        )
        made = linear(squares, *self._matrix()) if self.product is None else apply_linear(self.product, squares)
        out: Tensor = self.reduction_norm(made)
        return out

    def _matrix(self) -> tuple[Tensor, Tensor | None]:
        return self.reduction_conv.weight.permute(0, 2, 3, 1).flatten(1), self.reduction_conv.bias


class MixFeedForward(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them, which tells tokens their position (equation 3)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.linear2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        hidden = self.conv(apply_linear(self.linear1, x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return apply_linear(self.linear2, F.gelu(hidden))


class MixBlock(nn.Module):
    """Attention and feed-forward, pre-norm."""

    def __init__(self, config: MixTransformerConfig, stage: int) -> None:
        super().__init__()
        dim = config.channels[stage]
        self.norm1 = nn.LayerNorm(dim, config.norm_eps)
        self.attention = ReducedAttention(dim, config.heads[stage], config.reductions[stage], config.inner_norm_eps)
        self.norm2 = nn.LayerNorm(dim, config.norm_eps)
        self.mlp = MixFeedForward(dim, config.mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = add_into(self.attention(self.norm1(x)), x)
        return add_into(self.mlp(self.norm2(x)), x)


class MixStage(nn.Module):
    """Patch embedding, blocks, norm; the normed map goes to the head and into the next stage."""

    def __init__(self, config: MixTransformerConfig, stage: int) -> None:
        super().__init__()
        channels_in = config.channels[stage - 1] if stage else 3
        patch, stride = (PATCH, STRIDE) if stage else (FIRST_PATCH, FIRST_STRIDE)
        self.patch_embedding = OverlapPatchEmbedding(channels_in, config.channels[stage], patch, stride, config.inner_norm_eps)
        self.blocks = nn.Sequential(*(MixBlock(config, stage) for _ in range(config.depths[stage])))
        self.norm = nn.LayerNorm(config.channels[stage], config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H, W) -> (B, C, ceil(H / stride), ceil(W / stride)), channels last in memory."""
        out: Tensor = self.norm(self.blocks(self.patch_embedding(x)))
        return out.permute(0, 3, 1, 2)


class MixTransformer(nn.Module):
    """Four stages; any input of at least 32 x 32 pixels."""

    def __init__(self, config: MixTransformerConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.stages = nn.ModuleList(MixStage(config, stage) for stage in range(4))
        self.apply(_initialise)

    def fold(self) -> None:
        """Make what of the weights can be made beforehand."""
        for module in self.modules():
            if isinstance(module, ReducedAttention):
                module.fold()

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16, 32, sizes rounded up; channels last in memory."""
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            with torch.no_grad():
                module.bias.zero_()
