"""Configuration of a network and of what goes in and comes out of it: frozen dataclasses, one named constant per variant.

`NetworkConfig` is any of them: `ModelConfig` (Mask2Former with either encoder), `EomtModelConfig` and `SemanticModelConfig`.
Every field of a model's `config.json` has its name and default here; `checkpoints/model_folder.py` reads and writes the file.
"""

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["panoptic", "instance", "semantic"]
FloatPrecision = Literal["float32", "bfloat16"]
FLOAT_PRECISIONS: tuple[FloatPrecision, ...] = ("float32", "bfloat16")
Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = (*FLOAT_PRECISIONS, "int8")
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
class MixTransformerConfig:
    """Mix Transformer, SegFormer's hierarchical backbone (arXiv 2105.15203, section 3.1)."""

    channels: tuple[int, int, int, int] = (32, 64, 160, 256)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    """Per stage: keys and values are made of one token per square of so many tokens a side."""
    mlp_ratio: int = 4
    norm_eps: float = 1e-5
    """Of the norms around blocks and after stages: transformers 1e-5; NVIDIA's code and mmsegmentation 1e-6."""
    inner_norm_eps: float = 1e-5
    """Of the norms after patch embeddings and reductions: mmsegmentation 1e-6, the others 1e-5."""


@dataclass(frozen=True)
class VitConfig:
    """Plain vision transformer (arXiv 2010.11929), with the options of DINOv2 (arXiv 2304.07193) and DINOv3 (arXiv 2508.10104)."""

    dim: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    patch: int = 16
    """Pixels a side of one token's square."""
    grid: tuple[int, int] = (32, 32)
    """Tokens (down, across) that the learnt positions were trained for."""
    position: Literal["bilinear", "bicubic", "rotary"] = "bilinear"
    """How learnt positions are resized to another grid; or `rotary`: none are learnt (DINOv3's axial RoPE)."""
    rotary_base: float = 100.0
    class_token: bool = False
    registers: int = 0
    """Learnt tokens that stand for no place in the picture (arXiv 2309.16588)."""
    layer_scale: bool = False
    gated_mlp: bool = False
    """SwiGLU: silu(gate) x value, in place of GELU."""
    patch_bias: bool = True
    key_bias: bool = True
    norm_eps: float = 1e-6
    final_norm: bool = False
    taps: tuple[int, ...] = ()
    """Blocks, counted from 0, whose outputs a head reads; empty: the last."""
    shrink: int | None = None
    """The block that lets every second token a side through (SegViT Shrunk, arXiv 2210.05844, section 3.3); later ones see a quarter."""


@dataclass(frozen=True)
class SegformerHeadConfig:
    """The all-MLP head (arXiv 2105.15203, section 3.2)."""

    dim: int = 256
    variant: Literal["linear", "conv"] = "linear"
    """`linear`: as published and in transformers; `conv`: mmsegmentation's, with a norm and ReLU per level."""


@dataclass(frozen=True)
class SetrHeadConfig:
    """The convolutional heads of SETR (arXiv 2012.15840, section 3.3) in mmsegmentation's form."""

    variant: Literal["naive", "pup", "mla"] = "pup"
    dim: int = 256
    """Channels of naive's and PUP's convolutions, and of MLA's neck."""
    mla_dim: int = 128
    """Channels of MLA's head, per tap."""


@dataclass(frozen=True)
class SegvitHeadConfig:
    """Attention-to-mask: one query per class, whose attention logits are its mask (arXiv 2210.05844, section 3.1)."""

    dim: int = 384
    heads: int = 12
    layers: int = 3
    """Decoder layers per tap."""
    query_grid: tuple[int, int] | None = None
    """Shrunk: (down, across) learnt queries, one per patch, that read the taps of a shrunk backbone and become the tokens of the masks."""


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
BACKBONES: dict[str, type] = {"resnet": ResNetConfig, "swin": SwinConfig, "mit": MixTransformerConfig, "vit": VitConfig}
ENCODERS: dict[str, type[Encoder]] = {"proscale": ProScaleEncoderConfig, "mask2former": Mask2FormerEncoderConfig}
HEADS: dict[str, type] = {"segformer": SegformerHeadConfig, "setr": SetrHeadConfig, "segvit": SegvitHeadConfig}
"""Kinds of backbones, encoders and heads, by the names that `config.json` and the service's answers use."""


def backbone_kind(backbone: Backbone | MixTransformerConfig | VitConfig) -> str:
    """The name of a backbone's kind: `resnet`, `swin`, `mit` or `vit`."""
    return next(name for name, cls in BACKBONES.items() if isinstance(backbone, cls))


def encoder_kind(encoder: Encoder) -> str:
    """The name of an encoder's kind: `proscale` or `mask2former`."""
    return next(name for name, cls in ENCODERS.items() if isinstance(encoder, cls))


def head_kind(head: SegformerHeadConfig | SetrHeadConfig | SegvitHeadConfig) -> str:
    """The name of a head's kind: `segformer`, `setr` or `segvit`."""
    return next(name for name, cls in HEADS.items() if isinstance(head, cls))


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
    """How a picture becomes the network's input. Sizes in pixels, mean and std on the 0-255 scale of RGB.

    `size` counts before the sides, which count before `align`.
    """

    short_side: int = 800
    long_side: int = 1333
    size_divisor: int = 32
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    align: Literal["pad", "stretch", "none"] = "pad"
    """How sides become multiples of `size_divisor`: padded right and bottom, stretched, or not at all."""
    size: tuple[int, int] | None = None
    """(height, width) to which every picture is squeezed, its proportions lost (transformers' SegFormer)."""
    pad_to: tuple[int, int] | None = None
    """(height, width) to which every picture is padded instead of to multiples (EoMT)."""
    padding: Literal["mean", "black"] = "mean"
    """What padding is made of: the mean colour, which is zero after normalisation, or black pixels (EoMT)."""
    resize: bool = True
    """False: pictures keep their own size, however large; sides and `size` do not count."""
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    """PIL's filter for resizing."""
    rounding: Literal["nearest", "transformers"] = "nearest"
    """Of sides that follow from `short_side` and `long_side`: as detectron2 rounds, or cut off as in transformers' processors."""
    training_side: int | None = None
    """Short side of the training pictures' files, the median: windows as large show objects as in training. None: not known."""


@dataclass(frozen=True)
class SlideConfig:
    """Windows that a network looks through one by one; what they say is averaged where they overlap. Sizes in pixels."""

    crop: tuple[int, int]
    """(height, width) of a window; a smaller picture is one window of its own size."""
    stride: tuple[int, int] | None = None
    """(down, across) from window to window, the last moved back to the border; None: as few as cover the picture, evenly spread."""


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
    connected: tuple[str, ...] = ()
    """Names of thing classes of which every object is one connected piece, such as nuclei (`postprocess/pieces.py`): panoptic
    segments are taken apart and joined by that, and instances are the panoptic segments."""
    join_share: float = 0.25
    """Of `connected` classes: two pieces are one object when they share so much of the shorter outline."""
    min_pixels: int = 0
    """Of `connected` classes: smaller objects are left out, in pixels of the output."""
    combine_first: bool = False
    """Semantic: sum the queries up at the network's size and resize the scores, instead of resizing the masks first.

    Mask2Former's models for semantic segmentation alone were evaluated so.
    """
    resize_twice: bool = False
    """Class maps: resize the logits to the network's input, then to the output (mmsegmentation), not straight to the output."""


@dataclass(frozen=True)
class ModelConfig:
    """Mask2Former with either encoder: everything that defines it, its input and its output, besides weights and labels."""

    name: str
    classes: int
    """Number of classes K without void; the network has K + 1 class logits."""
    backbone: Backbone
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    transformer_decoder: TransformerDecoderConfig = field(default_factory=TransformerDecoderConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the network can be asked for."""
        return TASKS


@dataclass(frozen=True)
class EomtModelConfig:
    """EoMT: a plain ViT whose last blocks see queries beside the tokens (arXiv 2503.19108)."""

    name: str
    classes: int
    """Number of classes K without void; the network has K + 1 class logits."""
    backbone: VitConfig
    queries: int = 200
    query_blocks: int = 4
    """How many blocks, the last ones, see the queries."""
    upscale_steps: int = 2
    """Each doubles the resolution of the tokens that become mask features."""
    masked_attention: bool = False
    """Queries attend to tokens of their own mask alone. Published networks have been trained until they need it no more."""
    slide: SlideConfig | None = None
    """Of models for semantic segmentation alone."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the network can be asked for: with windows, semantic segmentation alone."""
        return ("semantic",) if self.slide else TASKS


@dataclass(frozen=True)
class SemanticModelConfig:
    """A network for semantic segmentation alone: SegFormer, SETR or SegViT, by its head."""

    name: str
    classes: int
    backbone: MixTransformerConfig | VitConfig
    head: SegformerHeadConfig | SetrHeadConfig | SegvitHeadConfig
    slide: SlideConfig | None = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the network can be asked for."""
        return ("semantic",)


NetworkConfig = ModelConfig | EomtModelConfig | SemanticModelConfig

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

MIT_B0 = MixTransformerConfig()
MIT_B1 = MixTransformerConfig(channels=(64, 128, 320, 512))
MIT_B2 = MixTransformerConfig(channels=(64, 128, 320, 512), depths=(3, 4, 6, 3))
MIT_B3 = MixTransformerConfig(channels=(64, 128, 320, 512), depths=(3, 4, 18, 3))
MIT_B4 = MixTransformerConfig(channels=(64, 128, 320, 512), depths=(3, 8, 27, 3))
MIT_B5 = MixTransformerConfig(channels=(64, 128, 320, 512), depths=(3, 6, 40, 3))
