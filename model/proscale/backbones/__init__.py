"""Picture -> maps of features.

The backbones of Mask2Former and PRO-SCALE map (B, 3, H, W), normalised, H and W multiples of 32, to four maps
(B, channels[i], H / 2**(i+2), W / 2**(i+2)), called res2 to res5. The Mix Transformer gives four maps at the same strides for any H and W,
the plain ViT one map per tapped block, all at the stride of its patches.
"""

from proscale.backbones.mix_transformer import MixTransformer
from proscale.backbones.resnet import ResNet
from proscale.backbones.swin import SwinTransformer
from proscale.backbones.vit import VisionTransformer
from proscale.config import MixTransformerConfig, ResNetConfig, SwinConfig, VitConfig


def build_backbone(config: ResNetConfig | SwinConfig) -> ResNet | SwinTransformer:
    """The backbone of a Mask2Former that a configuration describes, with fresh weights."""
    return ResNet(config) if isinstance(config, ResNetConfig) else SwinTransformer(config)


def build_semantic_backbone(config: MixTransformerConfig | VitConfig) -> MixTransformer | VisionTransformer:
    """The backbone of a network for semantic segmentation that a configuration describes, with fresh weights."""
    return MixTransformer(config) if isinstance(config, MixTransformerConfig) else VisionTransformer(config)
