"""transformers' `config.json` and `preprocessor_config.json` of SegFormer and EoMT: what they say, and what they must say when written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proscale.checkpoints.stated_network import StatedNetwork
from proscale.checkpoints.stated_settings import StatedSettings
from proscale.checkpoints.transformers_config import (
    FILTERS,
    PREPROCESSOR_FILE,
    fractions,
    label_ids,
    label_names,
    preprocessing,
    read_json_settings,
)
from proscale.config import (
    EomtModelConfig,
    MixTransformerConfig,
    NetworkConfig,
    SegformerHeadConfig,
    SemanticModelConfig,
    SlideConfig,
    VitConfig,
)
from proscale.errors import CheckpointError
from proscale.labels import Category

REQUIRED: dict[str, dict[str, Any]] = {
    "segformer": {
        "num_channels": 3,
        "num_encoder_blocks": 4,
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "hidden_act": "gelu",
        "reshape_last_stage": True,
    },
    "eomt": {"num_channels": 3, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "eomt_dinov3": {
        "num_channels": 3,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_gated_mlp": False,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
    },
}
"""Settings that shapes do not show; what is left out has these values, any other value means another network."""
CLAIMS: dict[str, dict[str, str]] = {
    "segformer": {
        "hidden_sizes": "backbone.channels",
        "depths": "backbone.depths",
        "sr_ratios": "backbone.reductions",
        "decoder_hidden_size": "head.dim",
    },
    "eomt": {
        "hidden_size": "backbone.dim",
        "num_hidden_layers": "backbone.layers",
        "num_register_tokens": "backbone.registers",
        "num_queries": "queries",
        "num_blocks": "query_blocks",
        "num_upscale_blocks": "upscale_steps",
    },
}
CLAIMS["eomt_dinov3"] = CLAIMS["eomt"] | {"intermediate_size": "backbone.mlp_dim"}
"""Settings that shapes show too, and where they stand in our configuration: files that contradict the weights are not theirs."""
SEGFORMER_EPS = 1e-5
ROTARY_BASE = 100.0
MAX_MLP_RATIO = 16


def read_transformers_network(path: Path, kind: str) -> StatedNetwork:
    """Read a `config.json`, and the `preprocessor_config.json` beside it.

    Args:
        kind: `segformer`, `eomt` or `eomt_dinov3`, as the weights' names say.

    Raises:
        CheckpointError: the configuration of another network; the text says where it differs.
    """
    values = read_json_settings(path)
    if values.get("model_type") != kind:
        raise CheckpointError(f"{path} describes a {values.get('model_type')!r} model; the weights are those of {kind}")
    for name, required in REQUIRED[kind].items():
        if values.get(name, required) != required:
            raise CheckpointError(f"{path}: {name} is {values[name]!r}; only {required!r} is supported")
    heads, rope = values.get("num_attention_heads"), values.get("rope_parameters") or {}
    side = values.get("image_size", 640) if kind != "segformer" else None
    base = rope.get("rope_theta", values.get("rope_theta")) if isinstance(rope, Mapping) else None
    said = StatedNetwork(
        StatedSettings(
            heads=heads if isinstance(heads, int) else None,
            label_names=label_names(values.get("id2label")),
            label_ids=label_ids(values.get("id2label")),
            claims=tuple((ours, _plain(values[name])) for name, ours in CLAIMS[kind].items() if values.get(name) is not None),
        ),
        stage_heads=tuple(heads) if isinstance(heads, list) else None,
        image_size=(side, side) if isinstance(side, int) else tuple(side) if isinstance(side, list) else None,
        rotary_base=float(base) if isinstance(base, int | float) else None,
        query_blocks=blocks if isinstance(blocks := values.get("num_blocks"), int) else None,
    )
    processor = path.with_name(PREPROCESSOR_FILE)
    return said.or_else(_processor(read_json_settings(processor), kind, processor)) if processor.is_file() else said


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _processor(values: Mapping[str, Any], kind: str, path: Path) -> StatedNetwork:
    if values.get("do_rescale") is False:
        raise CheckpointError(f"{path}: do_rescale is false; pictures of 0..255 are divided by 255 here")
    common, size, exact = preprocessing(values, path), values.get("size"), None
    if values.get("do_normalize") is False:
        common = StatedSettings(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)).or_else(common)
    if kind == "segformer" and values.get("do_resize") is not False:
        if isinstance(size, int):
            exact = (size, size)
        elif isinstance(size, Mapping) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
            exact = (size["height"], size["width"])
    task = StatedSettings(task="semantic") if values.get("do_split_image") is True else StatedSettings()
    return StatedNetwork(
        task.or_else(common),
        size=exact,
        rounding="transformers" if common.short_side is not None else None,
        colours_given=common.mean is not None and common.std is not None,
    )


def transformers_network(config: NetworkConfig, categories: Sequence[Category]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.json` and `preprocessor_config.json` for transformers' SegFormer or EoMT.

    Raises:
        CheckpointError: transformers has no such network; the text says why.
    """
    names = {str(i): category.name for i, category in enumerate(categories)}
    shared = {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}, "dtype": "float32"}
    pixels = {
        "do_resize": config.preprocess.resize,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": FILTERS.index(config.preprocess.filter),
        "image_mean": fractions(config.preprocess.mean),
        "image_std": fractions(config.preprocess.std),
    }
    if isinstance(config, EomtModelConfig):
        return _eomt(config) | shared, pixels | _eomt_pixels(config)
    if isinstance(config, SemanticModelConfig) and isinstance(config.backbone, MixTransformerConfig):
        size = config.preprocess.size
        sides = {"shortest_edge": config.preprocess.short_side, "longest_edge": config.preprocess.long_side}
        exact = {"height": size[0], "width": size[1]} if size else sides
        own = {"image_processor_type": "SegformerImageProcessor", "size": exact, "do_reduce_labels": False}
        return _segformer(config, config.backbone) | shared, pixels | own
    raise CheckpointError("transformers has no such network; Mask2Former, SegFormer and EoMT can be written for it")


def _segformer(config: SemanticModelConfig, backbone: MixTransformerConfig) -> dict[str, Any]:
    assert isinstance(config.head, SegformerHeadConfig)
    reasons = []
    if config.head.variant != "linear":
        reasons.append("its head is mmsegmentation's, with a norm per level")
    if (backbone.norm_eps, backbone.inner_norm_eps) != (SEGFORMER_EPS, SEGFORMER_EPS):
        reasons.append(
            f"its norms have the epsilons {backbone.norm_eps:g} and {backbone.inner_norm_eps:g}, transformers' {SEGFORMER_EPS:g}"
        )
    if reasons:
        raise CheckpointError(f"transformers has no such SegFormer: {'; '.join(reasons)}")
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "hidden_sizes": list(backbone.channels),
        "depths": list(backbone.depths),
        "num_attention_heads": list(backbone.heads),
        "sr_ratios": list(backbone.reductions),
        "mlp_ratios": [backbone.mlp_ratio] * 4,
        "decoder_hidden_size": config.head.dim,
        **REQUIRED["segformer"],
    }


def _eomt(config: EomtModelConfig) -> dict[str, Any]:
    vit = config.backbone
    rotary = vit.position == "rotary"
    image_size = config.preprocess.pad_to or (config.slide.crop if config.slide else (16 * vit.grid[0], 16 * vit.grid[1]))
    if image_size[0] != image_size[1]:
        raise CheckpointError(f"transformers' EoMT takes square inputs, not {image_size}")
    kind = "eomt_dinov3" if rotary else "eomt"
    own: dict[str, Any]
    if rotary:
        own = {"intermediate_size": vit.mlp_dim, "rope_parameters": {"rope_type": "default", "rope_theta": vit.rotary_base}}
    else:
        own = {"mlp_ratio": _mlp_ratio(vit), "use_swiglu_ffn": vit.gated_mlp}
    return {
        "architectures": ["EomtDinov3ForUniversalSegmentation" if rotary else "EomtForUniversalSegmentation"],
        "model_type": kind,
        "hidden_size": vit.dim,
        "num_hidden_layers": vit.layers,
        "num_attention_heads": vit.heads,
        "image_size": image_size[0],
        "num_queries": config.queries,
        "num_blocks": config.query_blocks,
        "num_upscale_blocks": config.upscale_steps,
        "num_register_tokens": vit.registers,
        **own,
        **REQUIRED[kind],
    }


def _mlp_ratio(vit: VitConfig) -> int:
    """The whole number from which transformers' DINOv2 EoMT makes this MLP's width. Raises CheckpointError: there is none."""
    for ratio in range(1, MAX_MLP_RATIO + 1):
        wide = vit.dim * ratio
        if vit.mlp_dim == (-(-(wide * 2 // 3) // 8) * 8 if vit.gated_mlp else wide):
            return ratio
    form = "two thirds of a whole multiple, rounded up to eights," if vit.gated_mlp else "a whole multiple"
    raise CheckpointError(f"transformers' EoMT has an MLP of {form} of its {vit.dim} channels, not {vit.mlp_dim}")


def _eomt_pixels(config: EomtModelConfig) -> dict[str, Any]:
    size = config.preprocess
    if config.slide is not None:
        edges: dict[str, Any] = {"shortest_edge": config.slide.crop[0], "longest_edge": None}
    else:
        edges = {"shortest_edge": size.short_side, "longest_edge": size.long_side}
    own = {"do_split_image": config.slide is not None, "do_pad": config.slide is None and size.resize}
    return {"image_processor_type": "EomtImageProcessor", "size": edges, **own}


def even_windows(side: int) -> SlideConfig:
    """EoMT's windows for semantic segmentation: as few squares as cover the long side."""
    return SlideConfig((side, side))
