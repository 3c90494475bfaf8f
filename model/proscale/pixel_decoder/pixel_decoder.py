"""The pixel decoder: project, encode, embed at stride 4."""

from collections.abc import Sequence

from torch import Tensor, nn

from proscale.config import Mask2FormerEncoderConfig, PixelDecoderConfig
from proscale.pixel_decoder.mask2former import Mask2FormerEncoder
from proscale.pixel_decoder.pixel_embedding import GROUPS, PixelEmbedding
from proscale.pixel_decoder.proscale import ProScaleEncoder


def _projection(channels_in: int, dim: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, dim, 1)
    nn.init.xavier_uniform_(convolution.weight)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, dim))


class PixelDecoder(nn.Module):
    """Input projections, one of the two encoders, the pixel embedding, and the projection to mask features."""

    def __init__(self, config: PixelDecoderConfig, channels: Sequence[int]) -> None:
        super().__init__()
        dim = config.hidden_dim
        # Coarse to fine: res5, res4, res3.
        self.input_projections = nn.ModuleList(_projection(channels_in, dim) for channels_in in reversed(channels[1:]))
        self.encoder = (
            Mask2FormerEncoder(config, config.encoder)
            if isinstance(config.encoder, Mask2FormerEncoderConfig)
            else ProScaleEncoder(config, config.encoder)
        )
        self.pixel_embedding = PixelEmbedding(channels[0], dim, config.pixel_embedding)
        self.mask_projection = nn.Conv2d(dim, dim, 1)
        nn.init.kaiming_uniform_(self.mask_projection.weight, a=1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Refine the backbone's levels.

        Args:
            features: res2, res3, res4, res5, each (B, channels[i], H / 2**(i+2), W / 2**(i+2)).

        Returns:
            mask_features (B, C, H / 4, W / 4), and the levels for the decoder (B, C, h, w) at strides 32, 16, 8.
        """
        embedding, levels = self.embed(features)
        mask_features: Tensor = self.mask_projection(embedding)
        return mask_features, levels

    def embed(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`forward` up to the mask projection: pixel embedding (B, C, H / 4, W / 4), and the levels."""
        projected = [p(f) for p, f in zip(self.input_projections, reversed(features[1:]), strict=True)]
        levels = self.encoder(projected)
        return self.pixel_embedding(features[0], levels[2]), levels
