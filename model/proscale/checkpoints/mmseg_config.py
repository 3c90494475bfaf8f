"""mmsegmentation's configurations (a `.py` beside the weights, or the text inside them): what they say of SegFormer, SETR and SegViT."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proscale.checkpoints.python_config import find_settings, parse_python_config, read_python_config, setting
from proscale.checkpoints.stated_network import StatedNetwork
from proscale.checkpoints.stated_settings import StatedSettings
from proscale.config import SlideConfig
from proscale.errors import CheckpointError

DATASETS = {"ADE20KDataset": "ade20k", "CityscapesDataset": "cityscapes"}
"""Data sets by mmsegmentation's names -> our labels tables."""


def read_mmseg_config(path: Path) -> StatedNetwork:
    """A configuration file and its bases. Raises CheckpointError: not Python, or a network that is not supported."""
    return _stated(read_python_config(path), str(path))


def read_mmseg_meta(meta: Mapping[str, Any], name: str) -> StatedNetwork:
    """What mmengine keeps inside a checkpoint: the configuration's text and the classes' names."""
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    said = _stated(parse_python_config(text, f"the configuration in {name}"), name)
    dataset = meta.get("dataset_meta")
    names = dataset.get("classes") if isinstance(dataset, Mapping) else meta.get("CLASSES")
    if isinstance(names, list | tuple) and names and all(isinstance(label, str) for label in names):
        return StatedNetwork(StatedSettings(label_names=tuple(names))).or_else(said)
    return said


def _stated(values: Mapping[str, Any], name: str) -> StatedNetwork:
    model = setting(values, "model") or {}
    backbone = setting(values, "model.backbone") or {}
    if setting(values, "model.decode_head.threshold") is not None or setting(values, "model.decode_head.out_channels") == 1:
        raise CheckpointError(f"{name}: a binary network with one class and a sigmoid is not supported; give it two classes and a softmax")
    if setting(values, "model.decode_head.align_corners") is True:
        raise CheckpointError(f"{name}: a head that resizes with align_corners=True is another network; align_corners=False is supported")
    colours = setting(values, "model.data_preprocessor") or setting(values, "data_preprocessor") or setting(values, "img_norm_cfg") or {}
    mean, std = _three(colours.get("mean")), _three(colours.get("std"))
    datasets = [found for found in find_settings(values, "dataset_type") if isinstance(found, str)]
    heads = backbone.get("num_heads")
    short, long = _test_scale(values)
    taps = backbone.get("out_indices")
    common = StatedSettings(
        heads=heads if isinstance(heads, int) else None,
        dataset=DATASETS.get(datasets[0]) if datasets else None,
        mean=mean,
        std=std,
        short_side=short,
        long_side=long,
        claims=tuple(_claims(values)),
    )
    test = setting(values, "model.test_cfg") or {}
    crop, stride = _two(test.get("crop_size")), _two(test.get("stride"))
    return StatedNetwork(
        common,
        stage_heads=tuple(heads) if isinstance(heads, list | tuple) else None,
        slide=SlideConfig(crop, stride) if test.get("mode") == "slide" and crop and stride else None,
        whole=True if test.get("mode") == "whole" else None,
        taps=tuple(taps) if isinstance(taps, list | tuple) and all(isinstance(tap, int) for tap in taps) else None,
        class_token=backbone.get("with_cls_token") if isinstance(backbone.get("with_cls_token"), bool) else None,
        position=backbone.get("interpolate_mode") if isinstance(backbone.get("interpolate_mode"), str) else None,
        image_size=_two(backbone.get("img_size")),
        shrink=backbone.get("shrink_idx") if isinstance(backbone.get("shrink_idx"), int) else None,
        auxiliary=False if "auxiliary_head" in model and not model["auxiliary_head"] else None,
        colours_given=mean is not None and std is not None,
    )


def _claims(values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What it says of things that shapes say too."""
    backbone = setting(values, "model.backbone") or {}
    width, layers, heads, reductions = (backbone.get(name) for name in ("embed_dims", "num_layers", "num_heads", "sr_ratios"))
    if isinstance(classes := setting(values, "model.decode_head.num_classes"), int):
        yield "classes", classes
    if isinstance(width, int):
        stages = [count for count in heads if isinstance(count, int)] if isinstance(heads, list | tuple) else None
        yield ("backbone.dim", width) if stages is None else ("backbone.channels", tuple(width * count for count in stages))
    if isinstance(layers, int | list | tuple):
        yield ("backbone.layers", layers) if isinstance(layers, int) else ("backbone.depths", tuple(layers))
    if isinstance(reductions, list | tuple):
        yield "backbone.reductions", tuple(reductions)


def _test_scale(values: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Short and long side at test; mmsegmentation writes (long, short), or (width, height)."""
    pipelines = [values[name] for name in ("test_pipeline",) if name in values] or find_settings(
        setting(values, "test_dataloader"), "pipeline"
    )
    pipelines = pipelines or find_settings(setting(values, "data.test"), "pipeline")
    for name in ("scale", "img_scale"):
        for pipeline in pipelines:
            for found in find_settings(pipeline, name):
                if two := _two(found):
                    return min(two), max(two)
    return None, None


def _two(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, int) and part > 0 for part in value):
        return value[0], value[1]
    return None


def _three(value: Any) -> tuple[float, float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(part, int | float) for part in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])
