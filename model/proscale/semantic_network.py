"""SegFormer, SETR and SegViT: a backbone and a head, over the whole picture or window by window."""

from typing import Self

import torch
from torch import Tensor, nn

from proscale.backbones import build_semantic_backbone
from proscale.backbones.mix_transformer import MixTransformer
from proscale.config import SemanticModelConfig
from proscale.heads import build_head
from proscale.predictions import DensePrediction, NetworkPrediction, QueryPrediction
from proscale.windows import in_windows


class SemanticNetwork(nn.Module):
    """A network for semantic segmentation alone, initialised for training from scratch."""

    def __init__(self, config: SemanticModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_semantic_backbone(config.backbone)
        self.head = build_head(config)
        self.short_head: nn.Module | None = None

    def forward(self, images: Tensor) -> DensePrediction | QueryPrediction:
        """The network as published, over the whole picture. Args: images (B, 3, H, W) float, normalised."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]

    def predict(self, images: Tensor) -> NetworkPrediction:
        """The shortest way to the same, window by window where the configuration says so.

        SETR's logits come before their last resizing (`DensePrediction.upscale`).

        Args:
            images: as for `forward`, in any float dtype.

        Returns:
            float32 logits, whatever the network computes in.
        """
        return in_windows(self._predict_whole, images, self.config.slide)

    def _predict_whole(self, images: Tensor) -> DensePrediction | QueryPrediction:
        images = images.to(next(self.head.parameters()).dtype)
        head = self.short_head or self.head.fold()
        said = head(self.backbone(images))
        if isinstance(said, QueryPrediction):
            return QueryPrediction(said.class_logits.float(), said.mask_logits.float())
        return DensePrediction(said.logits.float(), said.upscale)

    def fold(self) -> None:
        """Make the head's short form once, for weights that will not change; without it `predict` makes it anew each time."""
        with torch.no_grad():
            self.short_head = self.head.eval().fold()
        if isinstance(self.backbone, MixTransformer):
            self.backbone.fold()

    def train(self, mode: bool = True) -> Self:
        """Training may change the weights: the short form goes."""
        if mode:
            self.short_head = None
        return super().train(mode)
