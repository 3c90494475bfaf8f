"""The whole network: backbone -> pixel decoder -> transformer decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from proscale.backbones import build_backbone
from proscale.backbones.resnet import ResNet
from proscale.config import ModelConfig
from proscale.pixel_decoder.pixel_decoder import PixelDecoder
from proscale.predictions import QueryPrediction
from proscale.transformer_decoder import TransformerDecoder


@dataclass(frozen=True)
class NetworkOutput:
    """Everything a network computes for a batch."""

    predictions: tuple[QueryPrediction, ...]
    """The last is the result; the others, if asked for, are for deep supervision."""
    mask_features: Tensor
    """(B, C, H / 4, W / 4) float."""
    levels: tuple[Tensor, ...]
    """Refined levels (B, C, h, w) at strides 32, 16, 8."""

    @property
    def class_logits(self) -> Tensor:
        """(B, Q, K + 1) of the last prediction."""
        return self.predictions[-1].class_logits

    @property
    def mask_logits(self) -> Tensor:
        """(B, Q, H / 4, W / 4) of the last prediction."""
        return self.predictions[-1].mask_logits


class SegmentationNetwork(nn.Module):
    """Mask2Former with either encoder, initialised for training from scratch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.pixel_decoder = PixelDecoder(config.pixel_decoder, self.backbone.channels)
        self.transformer_decoder = TransformerDecoder(config.transformer_decoder, config.pixel_decoder.hidden_dim, config.classes)

    def forward(self, images: Tensor, auxiliary: bool = False) -> NetworkOutput:
        """Segment a batch.

        Args:
            images: (B, 3, H, W) float, normalised, zero-padded right and bottom; H and W multiples of 32.
            auxiliary: also return the predictions before the last.
        """
        features = self.backbone(images)
        mask_features, levels = self.pixel_decoder(features)
        predictions = self.transformer_decoder(levels, mask_features, auxiliary)
        return NetworkOutput(predictions, mask_features, tuple(levels))

    def predict(self, images: Tensor, features: Callable[[Tensor], Sequence[Tensor]] | None = None) -> QueryPrediction:
        """The last prediction alone, by the shortest way; what `forward` gives within rounding.

        Args:
            images: as for `forward`, in any float dtype.
            features: where the backbone's levels of a batch come from; None: the backbone.

        Returns:
            float32 logits, whatever the network computes in.
        """
        images = images.to(self.transformer_decoder.query_features.dtype)
        embedding, levels = self.pixel_decoder.embed((features or self.backbone)(images))
        return self.transformer_decoder.decode_last(levels, embedding, self.pixel_decoder.mask_projection)

    def fold(self) -> None:
        """Put a ResNet's norms into its convolutions; what else `predict` leaves out depends on the picture."""
        if isinstance(self.backbone, ResNet):
            self.backbone.fold()
