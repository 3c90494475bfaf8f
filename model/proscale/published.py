"""Published networks by name: configurations to count or to time, without weights. No torch."""

from collections.abc import Callable
from dataclasses import replace

from proscale.config import (
    MIT_B0,
    MIT_B1,
    MIT_B2,
    MIT_B3,
    MIT_B4,
    MIT_B5,
    EomtModelConfig,
    MixTransformerConfig,
    NetworkConfig,
    PostprocessConfig,
    PreprocessConfig,
    SegformerHeadConfig,
    SegvitHeadConfig,
    SemanticModelConfig,
    SetrHeadConfig,
    SlideConfig,
    VitConfig,
)

VIT_S, VIT_B, VIT_L = VitConfig(384, 12, 6, 1536), VitConfig(768, 12, 12, 3072), VitConfig()


def segformer(backbone: MixTransformerConfig, name: str, classes: int = 150, short_side: int = 512) -> SemanticModelConfig:
    """SegFormer as published: sides stretched to multiples of 32."""
    head = SegformerHeadConfig(256 if backbone.depths == (2, 2, 2, 2) else 768)
    pixels = PreprocessConfig(short_side, 2048, align="stretch")
    return SemanticModelConfig(name, classes, backbone, head, preprocess=pixels)


def setr(variant: str, name: str, classes: int = 150) -> SemanticModelConfig:
    """SETR on ViT-L in mmsegmentation's form, by windows of 512 pixels, 341 apart."""
    taps = (9, 14, 19, 23) if variant != "mla" else (5, 11, 17, 23)
    backbone = VitConfig(class_token=variant != "mla", patch_bias=False, taps=taps)
    head = SetrHeadConfig(variant)  # type: ignore[arg-type]
    pixels = PreprocessConfig(512, 2048, size_divisor=1, align="none")
    windows = SlideConfig((512, 512), (341, 341))
    return SemanticModelConfig(name, classes, backbone, head, windows, pixels, PostprocessConfig(resize_twice=True))


def segvit(backbone: VitConfig, name: str, crop: int, stride: int, classes: int = 150) -> SemanticModelConfig:
    """SegViT with its attention-to-mask head, by windows."""
    grid, taps = (crop // 16, crop // 16), (5, 7, 11) if backbone.layers == 12 else (7, 15, 23)
    vit = VitConfig(backbone.dim, backbone.layers, backbone.heads, backbone.mlp_dim, grid=grid, position="bicubic", taps=taps)
    head = SegvitHeadConfig(backbone.dim // 2, backbone.heads)
    pixels = PreprocessConfig(crop, 2048, size_divisor=1, align="none")
    return SemanticModelConfig(name, classes, vit, head, SlideConfig((crop, crop), (stride, stride)), pixels)


def segvit_shrunk(backbone: VitConfig, name: str, crop: int, stride: int, classes: int = 150) -> SemanticModelConfig:
    """SegViT Shrunk: a quarter of the tokens from block 8 on, and a learnt query per patch that brings their resolution back."""
    plain = segvit(backbone, name, crop, stride, classes)
    assert isinstance(plain.backbone, VitConfig)
    assert isinstance(plain.head, SegvitHeadConfig)
    vit = replace(plain.backbone, shrink=8, taps=(7, backbone.layers - 1))
    return replace(plain, backbone=vit, head=replace(plain.head, query_grid=vit.grid))


def eomt(backbone: VitConfig, name: str, size: int = 640, classes: int = 133, dinov3: bool = False) -> EomtModelConfig:
    """EoMT for panoptic segmentation on DINOv2 (3 blocks with queries in S and B, 4 in L) or DINOv3."""
    vit = VitConfig(
        backbone.dim,
        backbone.layers,
        backbone.heads,
        backbone.mlp_dim,
        grid=(size // 16, size // 16),
        position="rotary" if dinov3 else "bicubic",
        class_token=True,
        registers=4,
        layer_scale=True,
        key_bias=not dinov3,
        final_norm=True,
    )
    pixels = PreprocessConfig(size, size, pad_to=(size, size), padding="black")
    return EomtModelConfig(name, classes, vit, query_blocks=4 if backbone.layers == 24 else 3, preprocess=pixels)


PUBLISHED: dict[str, Callable[[int], NetworkConfig]] = {
    "segformer-b0": lambda classes: segformer(MIT_B0, "SegFormer-B0", classes),
    "segformer-b1": lambda classes: segformer(MIT_B1, "SegFormer-B1", classes),
    "segformer-b2": lambda classes: segformer(MIT_B2, "SegFormer-B2", classes),
    "segformer-b3": lambda classes: segformer(MIT_B3, "SegFormer-B3", classes),
    "segformer-b4": lambda classes: segformer(MIT_B4, "SegFormer-B4", classes),
    "segformer-b5": lambda classes: segformer(MIT_B5, "SegFormer-B5", classes, 640),
    "setr-naive": lambda classes: setr("naive", "SETR-Naive", classes),
    "setr-pup": lambda classes: setr("pup", "SETR-PUP", classes),
    "setr-mla": lambda classes: setr("mla", "SETR-MLA", classes),
    "segvit-b": lambda classes: segvit(VIT_B, "SegViT-B", 512, 341, classes),
    "segvit-l": lambda classes: segvit(VIT_L, "SegViT-L", 640, 608, classes),
    "segvit-l-shrunk": lambda classes: segvit_shrunk(VIT_L, "SegViT-L Shrunk", 640, 608, classes),
    "eomt-s": lambda classes: eomt(VIT_S, "EoMT-S", classes=classes),
    "eomt-b": lambda classes: eomt(VIT_B, "EoMT-B", classes=classes),
    "eomt-l": lambda classes: eomt(VIT_L, "EoMT-L", classes=classes),
    "eomt-s-dinov3": lambda classes: eomt(VIT_S, "EoMT-S DINOv3", classes=classes, dinov3=True),
    "eomt-b-dinov3": lambda classes: eomt(VIT_B, "EoMT-B DINOv3", classes=classes, dinov3=True),
    "eomt-l-dinov3": lambda classes: eomt(VIT_L, "EoMT-L DINOv3", classes=classes, dinov3=True),
}
"""Name -> configuration for a number of classes."""
