"""Plain vision transformer (arXiv 2010.11929), with what DINOv2 and DINOv3 add to it: registers, LayerScale, axial RoPE, SwiGLU."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import VitConfig
from proscale.errors import CheckpointError
from proscale.layers.linear import apply_linear, linear
from proscale.layers.tokenwise import add_into, in_chunks
from proscale.ops.attention import attention
from proscale.ops.constants import constant_tensor


class VitAttention(nn.Module):
    """Self-attention; rotary positions turn the queries and keys of the tokens of patches."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.projection = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, rotary: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """Args: x (B, N, C), rotary (2, P, C / heads) for the last P tokens, allowed (B, N, N) bool. Returns (B, N, C)."""
        query, key, value = apply_linear(self.qkv, x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return apply_linear(self.projection, attention(query, key, value, allowed))

    def of_some(self, kept: Tensor, x: Tensor) -> Tensor:
        """What some tokens (B, M, C) see in all of them (B, N, C). Returns (B, M, C)."""
        dim, heads = x.shape[-1], (self.heads, -1)
        query = linear(kept, self.qkv.weight[:dim], self.qkv.bias[:dim]).unflatten(-1, heads).transpose(1, 2)
        key, value = linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:]).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        return apply_linear(self.projection, attention(query, key, value))


class VitMLP(nn.Module):
    """Two linear layers around GELU, or SwiGLU's three."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.gated = config.gated_mlp
        self.linear1 = nn.Linear(config.dim, (2 if config.gated_mlp else 1) * config.mlp_dim)
        self.linear2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if self.gated:
            gate, value = apply_linear(self.linear1, x).chunk(2, -1)
            return apply_linear(self.linear2, F.silu(gate) * value)
        return apply_linear(self.linear2, apply_linear(self.linear1, x, "gelu"))


class VitBlock(nn.Module):
    """Attention and MLP, pre-norm; LayerScale weighs both."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, config.norm_eps)
        self.attention = VitAttention(config)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = VitMLP(config)
        self.hidden = config.mlp_dim * (2 if config.gated_mlp else 1)
        self.scale1 = nn.Parameter(torch.ones(config.dim)) if config.layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(config.dim)) if config.layer_scale else None

    def forward(self, x: Tensor, rotary: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """Args: as `VitAttention.forward`. Returns (B, N, C)."""
        update = self.attention(self.norm1(x), rotary, allowed)
        x = add_into(update, x) if self.scale1 is None else torch.addcmul(x, update, self.scale1)
        return in_chunks(self._feed_forward, x, self.hidden)

    def shrink(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """The block for every second token of every second row, which see all. Args: x (B, h * w, C). Returns those, and their grid."""
        normed = self.norm1(x)
        kept, seen = (tokens.unflatten(1, grid)[:, ::2, ::2] for tokens in (x, normed))
        update = self.attention.of_some(seen.flatten(1, 2), normed)
        x = update + kept.flatten(1, 2) if self.scale1 is None else torch.addcmul(kept.flatten(1, 2), update, self.scale1)
        return in_chunks(self._feed_forward, x, self.hidden), (kept.shape[1], kept.shape[2])

    def _feed_forward(self, x: Tensor) -> Tensor:
        update = self.mlp(self.norm2(x))
        return add_into(update, x) if self.scale2 is None else torch.addcmul(x, update, self.scale2)


class PatchEmbedding(nn.Module):
    """Squares of pixels -> tokens."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.projection = nn.Conv2d(3, config.dim, config.patch, config.patch, bias=config.patch_bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), zero-padded here right and bottom to whole patches -> (B, h, w, C)."""
        p = self.patch
        images = F.pad(images, (0, -images.shape[3] % p, 0, -images.shape[2] % p))
        # A convolution whose patches do not overlap is a matrix product.
        patches = images.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return linear(patches, self.projection.weight.flatten(1), self.projection.bias)


class VisionTransformer(nn.Module):
    """Tokens of patches, after a class token and registers if there are any, through blocks at one stride."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.prefix = int(config.class_token) + config.registers
        """Tokens that stand before those of the patches."""
        if config.shrink is not None and (self.prefix or config.position == "rotary"):
            raise CheckpointError("a ViT that shrinks has tokens of patches alone, and learnt positions")
        self.patch_embedding = PatchEmbedding(config)
        self.class_token = nn.Parameter(torch.zeros(1, config.dim)) if config.class_token else None
        self.registers = nn.Parameter(torch.zeros(config.registers, config.dim)) if config.registers else None
        learnt = config.position != "rotary"
        self.position = nn.Parameter(torch.zeros(math.prod(config.grid), config.dim)) if learnt else None
        self.blocks = nn.ModuleList(VitBlock(config) for _ in range(self.depth))
        self.norm = nn.LayerNorm(config.dim, config.norm_eps) if config.final_norm else None
        self.apply(_initialise)
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose outputs `forward` gives."""
        return self.config.taps or (self.config.layers - 1,)

    @property
    def depth(self) -> int:
        """Blocks up to the last tap; the output of later blocks is not used."""
        return max(self.taps) + 1

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int], Tensor | None]:
        """Pictures -> the first block's input.

        Args:
            images: (B, 3, H, W) float, normalised.

        Returns:
            tokens (B, prefix + h * w, C), row-major; (h, w); and rotary positions for the blocks, if any.
        """
        patches = self.patch_embedding(images)
        batch, height, width, dim = patches.shape
        tokens = patches.reshape(batch, -1, dim)
        rotary = None
        if self.position is not None:
            tokens = add_into(tokens, self._positions(height, width))
        else:
            rotary = _rotary_on(height, width, dim // self.config.heads, self.config.rotary_base, tokens.device, tokens.dtype)
        first = [part.expand(batch, -1, -1) for part in (self.class_token, self.registers) if part is not None]
        return torch.cat([*first, tokens], 1) if first else tokens, (height, width), rotary

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the taps' outputs (B, C, h, w) without prefix and final norm; channels last in memory.

        From the block that shrinks on, maps have half the height and width, rounded up.
        """
        x, grid, rotary = self.embed(images)
        maps = []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, VitBlock)
            x, grid = block.shrink(x, grid) if i == self.config.shrink else (block(x, rotary), grid)
            if i in self.taps:
                maps.append(x[:, self.prefix :].unflatten(1, grid).permute(0, 3, 1, 2))
        return maps

    def _positions(self, height: int, width: int) -> Tensor:
        """(h * w, C): the learnt positions, resized where the grid is another."""
        assert self.position is not None
        if (height, width) == self.config.grid:
            return self.position
        grid = self.position.unflatten(0, self.config.grid).permute(2, 0, 1)[None]
        resized = F.interpolate(grid, size=(height, width), mode=self.config.position, align_corners=False)
        return resized[0].flatten(1).T


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn the last P of the tokens (B, heads, N, D) by the angles behind `rotary` (2, P, D): cosines and sines."""
    cos, sin = rotary
    first = x.shape[2] - cos.shape[0]
    patches = x[:, :, first:]
    lower, upper = patches.chunk(2, -1)
    turned = torch.addcmul(patches * cos, torch.cat([-upper, lower], -1), sin)
    return torch.cat([x[:, :, :first], turned], 2)


@constant_tensor(maxsize=64)
def _rotary_on(height: int, width: int, head_dim: int, base: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    return rotary_positions(height, width, head_dim, base).to(device, dtype)


def rotary_positions(height: int, width: int, head_dim: int, base: float) -> Tensor:
    """Cosines and sines of DINOv3's axial RoPE: patch centres in -1..1, a quarter of the channels per frequency and axis.

    Returns:
        (2, h * w, head_dim) float32 on the CPU, tokens row-major; the second half of the channels repeats the first.
    """
    if head_dim % 4:
        raise ValueError(f"axial RoPE needs a multiple of 4 channels a head, not {head_dim}")
    frequencies = 1 / base ** torch.arange(0, 1, 4 / head_dim, dtype=torch.float32)
    y, x = (2 * (torch.arange(0.5, size, dtype=torch.float32) / size) - 1 for size in (height, width))
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
    angles = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(2)
    return torch.stack([angles.cos(), angles.sin()])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
