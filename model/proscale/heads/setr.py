"""SETR's heads (arXiv 2012.15840, section 3.3), in mmsegmentation's form: naive, progressive upsampling, multi-level aggregation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from proscale.config import SetrHeadConfig
from proscale.heads.convolution import Affine, ConvNorm, fold_conv_norm, upsample
from proscale.layers.convolution import convolution
from proscale.layers.linear import FixedLinear, apply_linear, layer_at, linear
from proscale.predictions import DensePrediction

NORM_EPS = 1e-6
PUP_STEPS, NAIVE_SCALE, MLA_SCALE = 4, 4, 4


class SetrHead(nn.Module):
    """As published by mmsegmentation. Logits at stride 4 of a 16-pixel ViT (naive, MLA), at stride 1 (PUP)."""

    def __init__(self, config: SetrHeadConfig, dim: int, taps: int, classes: int) -> None:
        super().__init__()
        self.variant = config.variant
        if config.variant == "mla":
            self.norms = nn.ModuleList(nn.LayerNorm(dim, NORM_EPS) for _ in range(taps))
            self.projections = nn.ModuleList(ConvNorm(dim, config.dim, 1) for _ in range(taps))
            self.aggregations = nn.ModuleList(ConvNorm(config.dim, config.dim, 3) for _ in range(taps))
            self.steps = nn.ModuleList(
                nn.Sequential(ConvNorm(config.dim, config.mla_dim, 3), ConvNorm(config.mla_dim, config.mla_dim, 3)) for _ in range(taps)
            )
            self.classifier = nn.Conv2d(taps * config.mla_dim, classes, 1)
            return
        self.norms = nn.ModuleList([nn.LayerNorm(dim, NORM_EPS)])
        widths, kernel = ([dim, config.dim], 1) if config.variant == "naive" else ([dim, *[config.dim] * PUP_STEPS], 3)
        self.steps = nn.ModuleList(ConvNorm(before, after, kernel) for before, after in pairwise(widths))
        self.classifier = nn.Conv2d(config.dim, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> DensePrediction:
        """Args: the taps' maps (B, C, h, w), shallow to deep. Returns logits (B, K, s * h, s * w), s = 4 or, for PUP, 16."""
        if self.variant == "mla":
            maps = [_doubled(step(x), MLA_SCALE) for step, x in zip(self.steps, self.aggregate(features), strict=True)]
            return DensePrediction(self.classifier(torch.cat(maps, 1)))
        x = _normed(self.norms[0], features[-1])
        for step in self.steps:
            x = _doubled(step(x), NAIVE_SCALE if self.variant == "naive" else 2)
        return DensePrediction(self.classifier(x))

    def aggregate(self, features: Sequence[Tensor]) -> list[Tensor]:
        """MLA's neck: running sums from the deepest tap on, each smoothed; the deepest comes first."""
        total, maps = None, []
        parts = list(zip(self.norms, self.projections, features, strict=True))[::-1]
        for (norm, projection, x), smooth in zip(parts, self.aggregations, strict=True):
            own = projection(_normed(norm, x))
            total = own if total is None else total + own
            maps.append(smooth(total))
        return maps

    def fold(self) -> "ShortSetrHead":
        """The short form of these weights, frozen."""
        return ShortSetrHead(self)


class ShortSetrHead(nn.Module):
    """The same with norms inside convolutions, and the classifier before the last resizing, with which it commutes.

    So naive and MLA classify at stride 16 and PUP at stride 2. The last resizing is left to whoever resizes the logits anyway.
    """

    def __init__(self, head: SetrHead) -> None:
        super().__init__()
        self.variant, self.norms = head.variant, head.norms
        dtype = head.classifier.weight.dtype
        self.upscale = {"naive": NAIVE_SCALE, "mla": MLA_SCALE, "pup": 2}[head.variant]
        self.steps = nn.ModuleList(
            _Folded([fold_conv_norm(layer) for layer in (step if isinstance(step, nn.Sequential) else [step])], dtype)  # type: ignore[arg-type]
            for step in head.steps
        )
        if head.variant == "mla":
            self.projections, self.aggregations = (
                nn.ModuleList(_Folded([fold_conv_norm(layer)], dtype) for layer in layers)  # type: ignore[arg-type]
                for layers in (head.projections, head.aggregations)
            )
        # MLA: a part of the classifier for every map, summed up; its bias counts once.
        parts = head.classifier.weight.flatten(1).chunk(len(head.steps) if head.variant == "mla" else 1, 1)
        self.classifiers = nn.ModuleList(FixedLinear(part, None if i else head.classifier.bias) for i, part in enumerate(parts))

    def forward(self, features: Sequence[Tensor]) -> DensePrediction:
        """Args as `SetrHead.forward`. Returns its logits before the last resizing: (B, K, h, w), for PUP (B, K, 8 h, 8 w)."""
        if self.variant == "mla":
            total, logits = None, None
            parts = list(zip(self.norms, self.projections, features, strict=True))[::-1]
            for i, ((norm, projection, x), smooth, step) in enumerate(zip(parts, self.aggregations, self.steps, strict=True)):
                own = projection(_normed(norm, x))
                total = own if total is None else total + own
                said = self._classified(i, step(smooth(total)))
                logits = said if logits is None else logits.add_(said)
            assert logits is not None
            return DensePrediction(logits, self.upscale)
        x = _normed(self.norms[0], features[-1])
        for i, step in enumerate(self.steps):
            x = step(x if not i else _doubled(x, 2))
        return DensePrediction(self._classified(0, x), self.upscale)

    def _classified(self, i: int, x: Tensor) -> Tensor:
        return apply_linear(layer_at(self.classifiers, i), x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Folded(nn.Module):
    """Convolutions with their norms inside, each with its ReLU."""

    def __init__(self, layers: Sequence[Affine], dtype: torch.dtype) -> None:
        super().__init__()
        self.count = len(layers)
        for i, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight{i}", weight.detach().to(dtype, memory_format=torch.channels_last), persistent=False)
            self.register_buffer(f"bias{i}", bias.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            weight: Tensor = getattr(self, f"weight{i}")
            if weight.shape[2] == 1:
                x = linear(x.permute(0, 2, 3, 1), weight.flatten(1), getattr(self, f"bias{i}"), "relu").permute(0, 3, 1, 2)
            else:
                padding = [weight.shape[2] // 2] * 2
                x = convolution(x, weight, getattr(self, f"bias{i}"), [1, 1], padding, relu=True)
        return x


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return out


def _doubled(x: Tensor, scale: int) -> Tensor:
    return upsample(x, (scale * x.shape[2], scale * x.shape[3]))
