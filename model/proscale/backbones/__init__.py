"""Picture -> feature levels at strides 4, 8, 16, 32, called res2 to res5 for every backbone.

A backbone maps (B, 3, H, W), normalised, H and W multiples of 32, to four maps (B, channels[i], H / 2**(i+2), W / 2**(i+2)).
"""

from proscale.backbones.resnet import ResNet
from proscale.backbones.swin import SwinTransformer
from proscale.config import ResNetConfig, SwinConfig


def build_backbone(config: ResNetConfig | SwinConfig) -> ResNet | SwinTransformer:
    """The backbone that a configuration describes, with fresh weights."""
    return ResNet(config) if isinstance(config, ResNetConfig) else SwinTransformer(config)
