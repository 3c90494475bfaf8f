"""SegFormer, SETR, SegViT and EoMT that tensors under our names belong to: from shapes, and from what stands beside them."""

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from proscale.checkpoints.recognise_architecture import count_parts, shape_of
from proscale.checkpoints.stated_network import StatedNetwork
from proscale.config import MixTransformerConfig, SegformerHeadConfig, SegvitHeadConfig, SetrHeadConfig, VitConfig
from proscale.errors import CheckpointError

PATCH, HEAD_WIDTH = 16, 64
"""Pixels a side of a token; channels per attention head of every published plain ViT."""
MIT_HEADS = (1, 2, 5, 8)
NORM_EPS = {"transformers": (1e-5, 1e-5), "nvidia": (1e-6, 1e-5), "mmsegmentation": (1e-6, 1e-6)}
"""Of a Mix Transformer's blocks, and of its patch embeddings and reductions, by layout."""
TAPS = {
    ("setr", 24): (9, 14, 19, 23),
    ("setr mla", 24): (5, 11, 17, 23),
    ("segvit", 24): (7, 15, 23),
    ("segvit", 12): (5, 7, 11),
    ("segvit shrunk", 24): (7, 23),
}
"""Tapped blocks as published, by head and depth."""
SHRINK = {24: 8}
"""The block of SegViT Shrunk that shrinks, as published, by depth."""


def recognise_segformer(
    state: Mapping[str, Tensor], layout: str, said: StatedNetwork
) -> tuple[MixTransformerConfig, SegformerHeadConfig, int]:
    """Backbone, head and number of classes.

    Raises:
        CheckpointError: a tensor that decides something is missing or of an impossible shape, or the network is a binary one.
    """
    stage = "backbone.stages.{}."
    channels = tuple(shape_of(state, stage.format(i) + "patch_embedding.projection.weight", 4)[0] for i in range(4))
    depths = tuple(count_parts(state, stage.format(i) + "blocks.{}.") for i in range(4))
    reductions = tuple(_reduction(state, stage.format(i) + "blocks.0.attention.reduction_conv.weight") for i in range(4))
    heads = said.stage_heads or MIT_HEADS
    if len(heads) != 4 or any(width % count for width, count in zip(channels, heads, strict=True)):
        raise CheckpointError(f"channels {channels} cannot be shared by {heads} attention heads; give a configuration that says how many")
    hidden = shape_of(state, "backbone.stages.0.blocks.0.mlp.linear1.weight", 2)[0]
    eps, inner = NORM_EPS["transformers" if layout.startswith("transformers") else layout]
    backbone = MixTransformerConfig(channels, depths, heads, reductions, hidden // channels[0], eps, inner)  # type: ignore[arg-type]
    conv = "head.levels.0.conv.weight" in state
    dim = shape_of(state, "head.fuse.conv.weight", 4)[0]
    classes = shape_of(state, "head.classifier.weight", 4)[0]
    if classes == 1:
        raise CheckpointError("this SegFormer has one class and a sigmoid, which is not supported; train it with two classes and a softmax")
    return backbone, SegformerHeadConfig(dim, "conv" if conv else "linear"), classes


def recognise_vit(state: Mapping[str, Tensor], said: StatedNetwork, head: str = "") -> VitConfig:
    """The plain ViT of SETR, SegViT (`head`, which chooses the published taps) or EoMT (no head).

    Raises:
        CheckpointError: as `recognise_segformer`; also another patch size, or a grid that nothing says.
    """
    dim, _, patch, across = shape_of(state, "backbone.patch_embedding.projection.weight", 4)
    if (patch, across) != (PATCH, PATCH):
        raise CheckpointError(f"this ViT has patches of {patch}x{across} pixels; {PATCH}x{PATCH} is supported")
    layers = count_parts(state, "backbone.blocks.{}.")
    heads = said.common.heads or dim // HEAD_WIDTH
    if not heads or dim % heads or (said.common.heads is None and dim % HEAD_WIDTH):
        raise CheckpointError(f"nothing says how many attention heads share {dim} channels; give --config with the network's configuration")
    hidden = shape_of(state, "backbone.blocks.0.mlp.linear2.weight", 2)[1]
    eomt = not head
    rotary = "backbone.position" not in state
    return VitConfig(
        dim=dim,
        layers=layers,
        heads=heads,
        mlp_dim=hidden,
        grid=VitConfig.grid if rotary else _grid(len(state["backbone.position"]), said.image_size),
        position="rotary" if rotary else _position(said.position, head),
        rotary_base=said.rotary_base or VitConfig.rotary_base,
        class_token="backbone.class_token" in state,
        registers=len(state["backbone.registers"]) if "backbone.registers" in state else 0,
        layer_scale="backbone.blocks.0.scale1" in state,
        gated_mlp=shape_of(state, "backbone.blocks.0.mlp.linear1.weight", 2)[0] == 2 * hidden,
        patch_bias="backbone.patch_embedding.projection.bias" in state,
        key_bias=not (eomt and rotary),
        final_norm=eomt,
        taps=() if eomt else _taps(said.taps, head, layers, state),
        shrink=_shrink(said.shrink, layers) if head == "segvit shrunk" else None,
    )


def recognise_setr(state: Mapping[str, Tensor]) -> tuple[SetrHeadConfig, int]:
    """Head and number of classes; errors as `recognise_segformer`."""
    classes = shape_of(state, "head.classifier.weight", 4)[0]
    if "head.projections.0.conv.weight" in state:
        dim = shape_of(state, "head.projections.0.conv.weight", 4)[0]
        return SetrHeadConfig("mla", dim, shape_of(state, "head.steps.0.0.conv.weight", 4)[0]), classes
    dim, *_, kernel = shape_of(state, "head.steps.0.conv.weight", 4)
    steps = count_parts(state, "head.steps.{}.")
    if (steps, kernel) not in ((1, 1), (4, 3)):
        raise CheckpointError(f"SETR's head has {steps} convolutions of {kernel}x{kernel}; naive has one of 1x1, PUP four of 3x3")
    return SetrHeadConfig("naive" if steps == 1 else "pup", dim), classes


def recognise_segvit(state: Mapping[str, Tensor], backbone_heads: int) -> tuple[SegvitHeadConfig, int]:
    """Head, Shrunk or not, which has as many attention heads as the backbone, and number of classes; errors as `recognise_segformer`."""
    classes, dim = shape_of(state, "head.queries", 2)
    if dim % backbone_heads:
        raise CheckpointError(f"{dim} channels of SegViT's head cannot be shared by {backbone_heads} attention heads")
    grid = None
    if "head.patch_queries" in state:
        queries = shape_of(state, "head.patch_queries", 2)[0]
        grid = (math.isqrt(queries), math.isqrt(queries))
        if math.prod(grid) != queries:
            raise CheckpointError(f"SegViT Shrunk has a learnt query per patch of a square window, and {queries} is no square number")
    return SegvitHeadConfig(dim, backbone_heads, count_parts(state, "head.stages.0.layers.{}."), grid), classes


def _reduction(state: Mapping[str, Tensor], name: str) -> int:
    return shape_of(state, name, 4)[2] if name in state else 1


def _grid(tokens: int, image_size: tuple[int, int] | None) -> tuple[int, int]:
    if image_size is not None:
        grid = (image_size[0] // PATCH, image_size[1] // PATCH)
        if math.prod(grid) != tokens:
            raise CheckpointError(
                f"the configuration says pictures of {image_size}, which are {math.prod(grid)} tokens; the weights have {tokens}"
            )
        return grid
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise CheckpointError(f"nothing says how the {tokens} learnt positions lie; give --config with the network's configuration")
    return side, side


def _position(stated: str | None, head: str) -> Literal["bilinear", "bicubic"]:
    if stated not in (None, "bilinear", "bicubic"):
        raise CheckpointError(f"positions are resized by {stated!r}; bilinear and bicubic are supported")
    return "bilinear" if stated == "bilinear" or (stated is None and head.startswith("setr")) else "bicubic"


def _shrink(stated: int | None, layers: int) -> int:
    block = SHRINK.get(layers) if stated is None else stated
    if block is None or not 0 <= block < layers:
        what = "nothing says" if stated is None else f"the configuration says {stated}, but that is not"
        raise CheckpointError(f"{what} which of the {layers} blocks shrinks; give --config with the network's configuration (shrink_idx)")
    return block


def _taps(stated: tuple[int, ...] | None, head: str, layers: int, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    stages = {"setr mla": "head.norms.{}.", "segvit": "head.stages.{}.", "segvit shrunk": "head.stages.{}."}
    taps = stated or TAPS.get((head, layers)) or ((layers - 1,) if head == "setr" else None)
    if taps is None:
        raise CheckpointError(f"nothing says which of the {layers} blocks the head reads; give --config with the network's configuration")
    taps = tuple(tap % layers for tap in taps)
    if head in stages and len(taps) != count_parts(state, stages[head]):
        raise CheckpointError(f"the head reads {count_parts(state, stages[head])} blocks, the configuration names {taps}")
    return taps
