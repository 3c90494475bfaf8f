"""SegFormer's head (arXiv 2105.15203, section 3.2): four levels to one width, one size, one map of logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import SegformerHeadConfig
from proscale.heads.convolution import ConvNorm, fold_conv_norm, norm_affine, upsample
from proscale.layers.linear import FixedLinear, apply_linear, layer_at
from proscale.predictions import DensePrediction


class SegformerHead(nn.Module):
    """As published. `linear`: a linear layer per level; `conv`: mmsegmentation's, with BatchNorm and ReLU after it.

    The orders differ too: `linear` fuses levels coarse to fine, `conv` fine to coarse.
    """

    def __init__(self, config: SegformerHeadConfig, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.variant = config.variant
        if config.variant == "linear":
            self.levels = nn.ModuleList(nn.Linear(width, config.dim) for width in channels)
        else:
            self.levels = nn.ModuleList(ConvNorm(width, config.dim, 1) for width in channels)
        self.fuse = ConvNorm(len(channels) * config.dim, config.dim, 1)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(config.dim, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> DensePrediction:
        """Args: maps (B, C_i, h_i, w_i), fine to coarse. Returns logits (B, K, h_0, w_0)."""
        size = (features[0].shape[2], features[0].shape[3])
        maps = [upsample(self._level(i, x), size) for i, x in enumerate(features)]
        fused = self.fuse(torch.cat(maps[::-1] if self.variant == "linear" else maps, 1))
        return DensePrediction(self.classifier(self.dropout(fused)))

    def _level(self, i: int, x: Tensor) -> Tensor:
        level = self.levels[i]
        if isinstance(level, nn.Linear):
            out: Tensor = level(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            out = level(x)
        return out

    def fold(self) -> "ShortSegformerHead":
        """The short form of these weights, frozen."""
        return ShortSegformerHead(self)


class ShortSegformerHead(nn.Module):
    """The same with everything linear in one matrix per level, applied at the level's own size.

    Resizing acts on places, a matrix on channels: they commute, and as resizing weights sum to 1, biases pass through it too. So fusing
    and its norm move before the resizing; with `linear` they join the level's own layer.
    """

    def __init__(self, head: SegformerHead) -> None:
        super().__init__()
        scale, shift = norm_affine(head.fuse.norm)
        fuse = (head.fuse.conv.weight.double().flatten(1) * scale[:, None]).chunk(len(head.levels), 1)
        if head.variant == "linear":
            fuse = fuse[::-1]
        dtype, total = head.classifier.weight.dtype, shift
        self.own, self.levels = nn.ModuleList(), nn.ModuleList()
        products = []
        for level, block in zip(head.levels, fuse, strict=True):
            if isinstance(level, nn.Linear):
                products.append(block @ level.weight.double())
                total = total + block @ level.bias.double()
            else:
                assert isinstance(level, ConvNorm)
                weight, bias = fold_conv_norm(level)
                self.own.append(FixedLinear(weight.flatten(1).to(dtype), bias.to(dtype)))
                products.append(block)
        for i, product in enumerate(products):  # the first carries the bias of them all
            self.levels.append(FixedLinear(product.to(dtype), None if i else total.to(dtype)))
        assert head.classifier.bias is not None
        self.classifier = FixedLinear(head.classifier.weight.flatten(1), head.classifier.bias)

    def forward(self, features: Sequence[Tensor]) -> DensePrediction:
        """Args and result as `SegformerHead.forward`; logits channels last in memory."""
        size = (features[0].shape[2], features[0].shape[3])
        total = self._level(0, features[0])
        for i in range(1, len(features)):
            total = total.add_(upsample(self._level(i, features[i]), size))
        fused = F.relu_(total).permute(0, 2, 3, 1)
        return DensePrediction(apply_linear(self.classifier, fused).permute(0, 3, 1, 2))

    def _level(self, i: int, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        if len(self.own):
            tokens = apply_linear(layer_at(self.own, i), tokens, "relu")
        return apply_linear(layer_at(self.levels, i), tokens).permute(0, 3, 1, 2)
