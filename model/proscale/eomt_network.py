"""EoMT (arXiv 2503.19108): queries beside the tokens in the last blocks of a plain ViT; no pixel decoder, no transformer decoder."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.backbones.vit import VisionTransformer
from proscale.config import EomtModelConfig
from proscale.layers.linear import FixedLinear, apply_linear, linear, products
from proscale.predictions import NetworkPrediction, QueryPrediction
from proscale.windows import in_windows

NORM_EPS = 1e-6


class UpscaleStep(nn.Module):
    """Twice the resolution: transposed convolution, GELU, depthwise 3x3 convolution, norm over channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, NORM_EPS)
        self.product: nn.Linear | None = None
        """`expand` as a linear layer: a transposed convolution whose squares do not overlap is a product that makes four tokens of each."""

    def fold(self) -> None:
        """Make `product` once, for weights that will not change; without it, it is made anew each time."""
        self.product = FixedLinear(*self._matrix())

    def train(self, mode: bool = True) -> Self:
        """Training may change the weights: `product` goes."""
        if mode:
            self.product = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, 2 h, 2 w, C)."""
        made = linear(x, *self._matrix(), "gelu") if self.product is None else apply_linear(self.product, x, "gelu")
        expanded = made.unflatten(-1, (2, 2, -1))
        expanded = expanded.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3)
        out: Tensor = self.norm(self.conv(expanded.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return out

    def _matrix(self) -> tuple[Tensor, Tensor]:
        assert self.expand.bias is not None
        return self.expand.weight.permute(2, 3, 1, 0).flatten(0, 2), self.expand.bias.repeat(4)


class EomtNetwork(nn.Module):
    """A plain ViT with queries, initialised for training from scratch."""

    def __init__(self, config: EomtModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.backbone.dim
        self.backbone = VisionTransformer(config.backbone)
        self.queries = nn.Parameter(torch.randn(config.queries, dim))
        self.upscale = nn.Sequential(*(UpscaleStep(dim) for _ in range(config.upscale_steps)))
        self.mask_head = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.class_head = nn.Linear(dim, config.classes + 1)

    def forward(self, images: Tensor, auxiliary: bool = False) -> tuple[QueryPrediction, ...]:
        """Segment a batch.

        Args:
            images: (B, 3, H, W) float, normalised.
            auxiliary: also return the predictions before the last: what queries would say before each block that sees them.

        Returns:
            mask logits at stride patch / 2**upscale_steps of the patches; the last prediction is the result.
        """
        tokens, grid, rotary = self.backbone.embed(images)
        blocks = list(self.backbone.blocks)
        predictions: list[QueryPrediction] = []  # `list[QueryPrediction]()` is nothing that torch.compile knows
        first = len(blocks) - self.config.query_blocks
        allowed = None
        for i, block in enumerate(blocks):
            if i == first:
                tokens = torch.cat([self.queries.expand(tokens.shape[0], -1, -1), tokens], 1)
            if i >= first and (auxiliary or self.config.masked_attention):
                said = self._said(tokens, grid)
                if auxiliary:
                    predictions.append(said)
                if self.config.masked_attention:
                    allowed = self._allowed(said.mask_logits, grid, tokens.shape[1])
            tokens = block(tokens, rotary, allowed)
        return (*predictions, self._said(tokens, grid))

    def predict(self, images: Tensor) -> NetworkPrediction:
        """The last prediction, window by window where the configuration says so.

        Args:
            images: as for `forward`, in any float dtype.

        Returns:
            float32 logits, whatever the network computes in.
        """
        return in_windows(self._predict_whole, images, self.config.slide)

    def fold(self) -> None:
        """Nothing in this network is superfluous: the short form is the published one, with its matrices made beforehand."""
        for step in self.upscale:
            assert isinstance(step, UpscaleStep)
            step.fold()

    def _predict_whole(self, images: Tensor) -> QueryPrediction:
        (said,) = self(images.to(self.queries.dtype))
        return QueryPrediction(said.class_logits.float(), said.mask_logits.float())

    def _said(self, tokens: Tensor, grid: tuple[int, int]) -> QueryPrediction:
        assert self.backbone.norm is not None
        tokens = self.backbone.norm(tokens)
        queries, patches = tokens[:, : self.config.queries], tokens[:, self.config.queries + self.backbone.prefix :]
        masks = queries
        for i, layer in enumerate(self.mask_head):
            assert isinstance(layer, nn.Linear)
            masks = apply_linear(layer, masks, "gelu" if i < len(self.mask_head) - 1 else "none")
        features = self.upscale(patches.unflatten(1, grid))
        mask_logits = products(masks, features.flatten(1, 2))
        return QueryPrediction(apply_linear(self.class_head, queries), mask_logits.unflatten(-1, features.shape[1:3]))

    def _allowed(self, mask_logits: Tensor, grid: tuple[int, int], tokens: int) -> Tensor:
        """(B, N, N) bool: queries see patches of their own mask; everything else sees everything."""
        allowed = torch.ones(mask_logits.shape[0], tokens, tokens, dtype=torch.bool, device=mask_logits.device)
        own = F.interpolate(mask_logits, grid, mode="bilinear", align_corners=False).flatten(2) > 0
        allowed[:, : self.config.queries, self.config.queries + self.backbone.prefix :] = own
        return allowed
