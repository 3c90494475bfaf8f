"""Configuration of a network and of what goes in and comes out of it: frozen dataclasses, one named constant per variant.

Every field of a model's `config.json` has its name and default here; `checkpoints/model_folder.py` reads and writes the file.
"""

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["panoptic", "instance", "semantic"]
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
TASKS: tuple[Task, ...] = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet with bottleneck blocks, stride in the 3x3 convolution, FrozenBatchNorm (He et al. 2016; detectron2's R-50/R-101)."""

    stem_channels: int = 64
    res2_channels: int = 256
    bottleneck_channels: int = 64
    """Width of the 3x3 convolution in res2; it doubles at every later stage, and so do the output channels."""
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)


@dataclass(frozen=True)
class SwinConfig:
    """Swin transformer (Liu et al. 2021): no absolute position, patch norm, a LayerNorm per output level."""

    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = 7


@dataclass(frozen=True)
class Mask2FormerEncoderConfig:
    """The pixel decoder's encoder as in Mask2Former: every layer attends to all three levels (arXiv 2112.01527, section 3.2.1)."""

    layers: int = 6


@dataclass(frozen=True)
class ProScaleEncoderConfig:
    """The encoder with progressively scaled token length (arXiv 2404.14657, section 3)."""

    layers: tuple[int, int, int] = (3, 3, 3)
    """(p1, p2, p3): how many layers see 1, 2 and 3 feature levels."""
    recalibration: Literal["linear", "conv", "none"] = "linear"
    """Token re-calibration (TRC): which published variant gates res5 and res4."""
    temperature: float = 0.1
    residual: bool = False
    """Add a stage's own input tokens after each of its layers (stages 1 and 2)."""


Backbone = ResNetConfig | SwinConfig
Encoder = Mask2FormerEncoderConfig | ProScaleEncoderConfig
BACKBONES: dict[str, type[Backbone]] = {"resnet": ResNetConfig, "swin": SwinConfig}
ENCODERS: dict[str, type[Encoder]] = {"proscale": ProScaleEncoderConfig, "mask2former": Mask2FormerEncoderConfig}
"""Kinds of backbones and encoders, by the names that `config.json` and the service's answers use."""


def backbone_kind(backbone: Backbone) -> str:
    """The name of a backbone's kind: `resnet` or `swin`."""
    return next(name for name, cls in BACKBONES.items() if isinstance(backbone, cls))


def encoder_kind(encoder: Encoder) -> str:
    """The name of an encoder's kind: `proscale` or `mask2former`."""
    return next(name for name, cls in ENCODERS.items() if isinstance(encoder, cls))


@dataclass(frozen=True)
class PixelDecoderConfig:
    encoder: Encoder = field(default_factory=ProScaleEncoderConfig)
    hidden_dim: int = 256
    heads: int = 8
    points: int = 4
    ffn_dim: int = 1024
    pixel_embedding: Literal["maxpool", "conv"] = "maxpool"
    """The step that makes stride-4 features: the light pixel embedding (`maxpool`) or Mask2Former's 3x3 convolution (`conv`)."""


@dataclass(frozen=True)
class TransformerDecoderConfig:
    layers: int = 9
    queries: int = 100
    ffn_dim: int = 2048
    heads: int = 8


@dataclass(frozen=True)
class PreprocessConfig:
    """How a picture becomes the network's input. Sizes in pixels, mean and std on the 0-255 scale of RGB."""

    short_side: int = 800
    long_side: int = 1333
    size_divisor: int = 32
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class PostprocessConfig:
    """The model's own thresholds, used where a request names none."""

    threshold: float = 0.8
    """Panoptic: a query is kept when the probability of its best class is above this."""
    overlap_threshold: float = 0.8
    """Panoptic: a segment is dropped when less than this share of its own mask is left to it."""
    mask_threshold: float = 0.5
    """Probability from which a pixel belongs to a query's mask."""
    instance_threshold: float = 0.5
    """Instance: segments with a score at or below this are left out (0 keeps all of the top candidates)."""
    max_instances: int = 100
    """Instance: how many candidates of queries x classes are looked at (detectron2's top-k)."""
    combine_first: bool = False
    """Semantic: sum the queries up at the network's size and resize the scores, instead of resizing the masks first.

    Mask2Former's models for semantic segmentation alone were evaluated so.
    """


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a network, its input and its output, besides weights and labels."""

    name: str
    classes: int
    """Number of classes K without void; the network has K + 1 class logits."""
    backbone: Backbone
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    transformer_decoder: TransformerDecoderConfig = field(default_factory=TransformerDecoderConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)


RESNET_50 = ResNetConfig()
RESNET_101 = ResNetConfig(blocks=(3, 4, 23, 3))
SWIN_T = SwinConfig()
SWIN_S = SwinConfig(depths=(2, 2, 18, 2))
SWIN_B = SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
SWIN_L = SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
PUBLISHED_BACKBONES: dict[str, Backbone] = {
    "ResNet-50": RESNET_50,
    "ResNet-101": RESNET_101,
    "Swin-T": SWIN_T,
    "Swin-S": SWIN_S,
    "Swin-B": SWIN_B,
    "Swin-L": SWIN_L,
}

MASK2FORMER = PixelDecoderConfig(encoder=Mask2FormerEncoderConfig(), pixel_embedding="conv")
PROSCALE = PixelDecoderConfig()
