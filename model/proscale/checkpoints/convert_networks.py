"""SegFormer, SETR, SegViT and EoMT checkpoints of any layout -> configuration, labels and tensors of ours."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from proscale.checkpoints.choose_labels import Labels, choose_labels
from proscale.checkpoints.eomt_names import eomt_layout, from_authors, from_transformers_eomt, masked_attention
from proscale.checkpoints.mmseg_config import read_mmseg_config, read_mmseg_meta
from proscale.checkpoints.mmseg_vit_names import from_mmseg_vit, mmseg_vit_layout
from proscale.checkpoints.recognise_architecture import count_parts, shape_of
from proscale.checkpoints.recognise_networks import PATCH, recognise_segformer, recognise_segvit, recognise_setr, recognise_vit
from proscale.checkpoints.segformer_names import from_segformer, segformer_layout
from proscale.checkpoints.stated_network import StatedNetwork
from proscale.checkpoints.stated_settings import StatedSettings, check_claims
from proscale.checkpoints.strict_loading import listed
from proscale.checkpoints.transformers_networks import even_windows, read_transformers_network
from proscale.checkpoints.weight_files import Checkpoint, read_checkpoint
from proscale.config import (
    EomtModelConfig,
    NetworkConfig,
    PostprocessConfig,
    PreprocessConfig,
    SegvitHeadConfig,
    SemanticModelConfig,
    SetrHeadConfig,
    SlideConfig,
    Task,
    VitConfig,
)
from proscale.config_json import CONFIG_FILE
from proscale.errors import CheckpointError

MAX_LONG_SIDE = 2048
STRIDES = {512: 341, 768: 512, 640: 608, 480: 320}
"""Windows' distances as published, by their side."""
WHOLE = "none"
MAX_ASPECT = 32
"""Long side over short side where windows cover the picture: the authors set no bound, but a strip of 1 by 10,000 pixels needs one."""


@dataclass(frozen=True)
class Asked:
    """What the user says."""

    folder: Path
    """Where companions lie."""
    default_name: str
    config: Path | None = None
    labels: str | None = None
    task: Task | None = None
    name: str | None = None
    base: str | None = None
    """DINOv3's own weights: a file or folder, or `none` where EoMT's are whole."""
    size: StatedSettings | None = None
    """Sizes of pictures."""
    allow_missing_auxiliary: bool = False
    """A SETR whose auxiliary heads were left out on purpose."""


@dataclass(frozen=True)
class ConvertedNetwork:
    """A network in our form."""

    config: NetworkConfig
    labels: Labels
    state: dict[str, Tensor]
    layout: str
    notes: tuple[str, ...]
    stated_names: tuple[str, ...] | None
    """Of classes, as a file has them."""


def convert_network(checkpoint: Checkpoint, asked: Asked) -> ConvertedNetwork | None:
    """Recognise a checkpoint; None: it is none of these networks.

    Raises:
        CheckpointError: it nearly is, or does not say something that is needed; the text says what.
    """
    names = checkpoint.state.keys()
    if layout := eomt_layout(names):
        return _eomt(checkpoint, layout, asked)
    if asked.base is not None:
        raise CheckpointError("--base goes with EoMT's DINOv3 deltas alone; these weights are whole")
    if layout := segformer_layout(names):
        return _segformer(checkpoint, layout, asked)
    if layout := mmseg_vit_layout(names):
        return _vit_with_head(checkpoint, layout, asked)
    if "backbone.pos_embed" in names:
        heads = listed({name.split(".")[1] for name in names if name.startswith("decode_head.")})
        raise CheckpointError(
            f"this is a plain ViT whose head is neither SETR's (up_convs) nor SegViT's (q, decoder_1); it has {heads or 'none'}"
        )
    return None


def _segformer(checkpoint: Checkpoint, layout: str, asked: Asked) -> ConvertedNetwork:
    state = from_segformer(checkpoint.state, layout)
    said, beside = _stated(checkpoint, asked, "segformer" if layout.startswith("transformers") else None)
    backbone, head, classes = recognise_segformer(state, layout, said)
    labels = choose_labels(classes, said.common, asked.labels)
    mmseg = layout == "mmsegmentation"
    short = said.common.short_side or (labels.table.short_side if labels.table and labels.table.name == "cityscapes" else 512)
    pixels = _pixels(said, short, said.common.long_side or MAX_LONG_SIDE)
    exact = mmseg or (asked.size is None and (said.rounding is not None or said.common.resize is False))
    pixels = replace(pixels, size=said.size, align="none" if exact else "stretch", size_divisor=1 if exact else 32)
    config = SemanticModelConfig(
        asked.name or f"SegFormer {labels.table.title if labels.table else asked.default_name}",
        classes,
        backbone,
        head,
        None if said.whole else said.slide,
        _as_asked(pixels, asked.size),
        PostprocessConfig(resize_twice=mmseg),
    )
    check_claims(said.common, config, beside)
    notes = [f"backbone: Mix Transformer {backbone}", f"head: {head.variant}, {head.dim} channels"]
    if said.stage_heads is None:
        notes.append(f"assumed, as published: {backbone.heads} attention heads")
    return ConvertedNetwork(config, labels, state, layout, _notes(config, labels, layout, beside, notes), said.common.label_names)


def _vit_with_head(checkpoint: Checkpoint, layout: str, asked: Asked) -> ConvertedNetwork:
    said, beside = _stated(checkpoint, asked, None)
    mla = layout == "setr" and any(name.startswith("neck.mla.") for name in checkpoint.state)
    token = said.class_token if said.class_token is not None else layout == "setr" and not mla
    state = from_mmseg_vit(checkpoint.state, layout, token)
    backbone = recognise_vit(state, said, f"{layout} mla" if mla else layout)
    head: SetrHeadConfig | SegvitHeadConfig
    head, classes = recognise_setr(state) if layout == "setr" else recognise_segvit(state, backbone.heads)
    if classes == 1:
        raise CheckpointError("this network has one class and a sigmoid, which is not supported; train it with two classes and a softmax")
    if isinstance(head, SegvitHeadConfig) and not said.colours_given:
        raise CheckpointError(
            "nothing says the mean and deviation of SegViT's pictures, which differ between its models: "
            "give --config with mmsegmentation's configuration (.py) of this model"
        )
    labels = choose_labels(classes, said.common, asked.labels)
    queries = head.query_grid if isinstance(head, SegvitHeadConfig) else None
    crop = (PATCH * (queries or backbone.grid)[0], PATCH * (queries or backbone.grid)[1])
    if queries and said.slide and said.slide.crop != crop:
        raise CheckpointError(
            f"the configuration says windows of {said.slide.crop}; the {math.prod(queries)} learnt queries are for {crop}"
        )
    if layout == "setr":
        _check_auxiliary(checkpoint, said, asked.allow_missing_auxiliary)
    slide = said.slide or SlideConfig(crop, (STRIDES.get(crop[0], 2 * crop[0] // 3), STRIDES.get(crop[1], 2 * crop[1] // 3)))
    pixels = replace(_pixels(said, said.common.short_side or crop[0], said.common.long_side or MAX_LONG_SIDE), align="none", size_divisor=1)
    family = f"SETR-{head.variant.upper()}" if isinstance(head, SetrHeadConfig) else "SegViT Shrunk" if queries else "SegViT"
    config = SemanticModelConfig(
        asked.name or f"{family} {labels.table.title if labels.table else asked.default_name}",
        classes,
        backbone,
        head,
        None if said.whole else slide,
        _as_asked(pixels, asked.size),
        PostprocessConfig(resize_twice=layout == "setr"),
    )
    check_claims(said.common, config, beside)
    notes = [f"backbone: plain ViT {backbone}", f"head: {head}"]
    if said.slide is None and not said.whole:
        notes.append("assumed: windows of the size that positions were trained for, as published; no configuration says")
    if layout == "setr" and not _has_auxiliary(checkpoint):
        notes.append("auxiliary heads: none; they are for training alone, and prediction is the same without")
    return ConvertedNetwork(
        config, labels, state, f"mmsegmentation ({layout})", _notes(config, labels, layout, beside, notes), said.common.label_names
    )


def _has_auxiliary(checkpoint: Checkpoint) -> bool:
    return any(name.startswith("auxiliary_head.") for name in checkpoint.state)


def _check_auxiliary(checkpoint: Checkpoint, said: StatedNetwork, allowed: bool) -> None:
    """Every SETR is trained with auxiliary heads: weights without them are not what training wrote, and more may be gone."""
    if not (_has_auxiliary(checkpoint) or allowed or said.auxiliary is False):
        raise CheckpointError(
            "this SETR lacks its auxiliary heads (auxiliary_head.*), which mmsegmentation saves with every SETR: the file is not whole. "
            "Prediction does not use them: if they were left out on purpose, give --allow-missing-auxiliary"
        )


def _eomt(checkpoint: Checkpoint, layout: str, asked: Asked) -> ConvertedNetwork:
    theirs = dict(checkpoint.state)
    if layout.startswith("authors"):
        theirs = from_authors(theirs, layout, _base(layout, asked.base))
    elif asked.base is not None:
        raise CheckpointError("--base goes with the authors' DINOv3 deltas alone; these weights are whole")
    rotary = "DINOv3" in layout
    said, beside = _stated(checkpoint, asked, None if layout.startswith("authors") else "eomt_dinov3" if rotary else "eomt")
    state = from_transformers_eomt(theirs, layout)
    backbone = recognise_vit(state, said)
    queries, classes = shape_of(state, "queries", 2)[0], shape_of(state, "class_head.weight", 2)[0] - 1
    published = 4 if backbone.layers >= 24 else 3
    blocks = theirs["attn_mask_probs"].numel() if "attn_mask_probs" in theirs else said.query_blocks or published
    labels = choose_labels(classes, said.common, asked.labels)
    side = (said.image_size or (_side(asked.default_name, backbone),))[0]
    task = asked.task or said.common.task or ("semantic" if re.search("semantic", asked.default_name) else None)
    pixels = _pixels(said, side, side)
    semantic = task == "semantic"
    if semantic:
        pixels = replace(pixels, short_side=side, long_side=MAX_ASPECT * side, align="none", size_divisor=1)
    else:
        pixels = replace(pixels, short_side=side, long_side=side, padding="black")
        pixels = replace(pixels, pad_to=(side, side)) if pixels.resize else replace(pixels, size_divisor=PATCH)
    config = EomtModelConfig(
        asked.name or f"EoMT{' DINOv3' if rotary else ''} {labels.table.title if labels.table else asked.default_name}",
        classes,
        backbone,
        queries,
        blocks,
        count_parts(state, "upscale.{}."),
        masked_attention(theirs),
        even_windows(side) if semantic else None,
        _as_asked(pixels, asked.size),
        PostprocessConfig(combine_first=semantic),
    )
    check_claims(said.common, config, beside)
    notes = [f"backbone: plain ViT {backbone}", f"queries: {queries}, in the last {blocks} blocks; pictures of {side} pixels"]
    if layout.endswith("deltas"):
        notes.append("base: none, the weights are whole" if asked.base == WHOLE else f"base: {asked.base}, added to the deltas")
    return ConvertedNetwork(config, labels, state, layout, _notes(config, labels, layout, beside, notes), said.common.label_names)


def _base(layout: str, base: str | None) -> Mapping[str, Tensor] | None:
    """The weights that deltas are added to; None: the weights are whole."""
    if not layout.endswith("deltas"):
        if base is not None:
            raise CheckpointError("--base goes with EoMT's DINOv3 deltas alone; these weights are whole")
        return None
    if base is None:
        raise CheckpointError(
            "these are EoMT's DINOv3 weights, which the authors publish as differences from DINOv3's own: give --base with the folder or "
            "file of the DINOv3 that it was trained from (facebook/dinov3-vits16-, vitb16- or vitl16-pretrain-lvd1689m on the Hugging Face "
            "hub, under Meta's DINOv3 licence), or --base none when your weights are whole"
        )
    return None if base == WHOLE else read_checkpoint(Path(base)).state


def _side(name: str, backbone: VitConfig) -> int:
    """EoMT's input, from the positions or the name (such as coco_panoptic_eomt_large_1280); 640 is the most common."""
    if backbone.position != "rotary":
        return PATCH * backbone.grid[0]
    found = re.findall(r"(?<!\d)(512|640|1024|1280)(?!\d)", name)
    return int(found[0]) if found else 640


def _stated(checkpoint: Checkpoint, asked: Asked, transformers: str | None) -> tuple[StatedNetwork, str]:
    """What stands beside the weights or inside them, and where.

    Args:
        transformers: the model type if the weights have transformers' names.
    """
    task = StatedNetwork(StatedSettings(task=asked.task))
    if transformers is not None:
        file = asked.config or asked.folder / CONFIG_FILE
        if asked.config is None and not file.is_file():
            return task, "no configuration"
        return task.or_else(read_transformers_network(file, transformers)), file.name
    inside = read_mmseg_meta(checkpoint.meta, checkpoint.files[0].name) if checkpoint.meta else StatedNetwork()
    inside = inside.or_else(_colours_among_weights(checkpoint.state))
    own = checkpoint.files[0].with_suffix(".py")
    beside = sorted(asked.folder.glob("*.py"))
    file_or_none = asked.config or (own if own.is_file() else beside[0] if len(beside) == 1 else None)
    if file_or_none is None:
        return task.or_else(inside), "what is inside the weights' file" if checkpoint.meta else "no configuration"
    return task.or_else(read_mmseg_config(file_or_none)).or_else(inside), file_or_none.name


def _colours_among_weights(state: Mapping[str, Tensor]) -> StatedNetwork:
    """Mean and deviation that some of mmengine's files carry."""
    mean, std = (state.get(f"data_preprocessor.{name}") for name in ("mean", "std"))
    if mean is None or std is None or mean.numel() != 3 or std.numel() != 3:
        return StatedNetwork()
    mean_, std_ = (tuple(round(value, 4) for value in tensor.flatten().tolist()) for tensor in (mean, std))
    return StatedNetwork(StatedSettings(mean=mean_, std=std_), colours_given=True)


def _pixels(said: StatedNetwork, short: int, long: int) -> PreprocessConfig:
    default, common = PreprocessConfig(short, max(short, long)), said.common
    return replace(
        default,
        mean=common.mean or default.mean,
        std=common.std or default.std,
        filter=common.filter or default.filter,  # type: ignore[arg-type]  # the reader has checked it
        resize=common.resize is not False,
        rounding=said.rounding or default.rounding,  # type: ignore[arg-type]
    )


def _as_asked(pixels: PreprocessConfig, size: StatedSettings | None) -> PreprocessConfig:
    """With the sizes of `--size`, in place of all that files say."""
    if size is None:
        return pixels
    sides = {name: value for name in ("short_side", "long_side") if (value := getattr(size, name)) is not None}
    return replace(pixels, **sides, size=size.size, resize=size.resize is not False, pad_to=None, rounding="nearest")


def _notes(config: NetworkConfig, labels: Labels, layout: str, beside: str, own: list[str]) -> tuple[str, ...]:
    size, slide = config.preprocess, getattr(config, "slide", None)
    if size.size:
        pictures = f"pictures: squeezed to {size.size[0]}x{size.size[1]} (height x width)"
    else:
        pictures = f"pictures: short side {size.short_side}, long side at most {size.long_side}"
    windows = f"; windows of {slide.crop}, {slide.stride or 'evenly spread'} apart" if slide else ""
    colours = f"; mean {size.mean}, deviation {size.std}"
    return (
        f"layout: {layout}, with {beside}",
        *own,
        f"classes: {config.classes}; labels: {labels.reason}",
        pictures + windows + colours,
        f"tasks: {', '.join(config.tasks)}",
    )
