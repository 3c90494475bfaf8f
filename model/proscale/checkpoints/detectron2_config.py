"""detectron2's YAML configuration, read as data: tags that would run code are skipped."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from proscale.checkpoints.stated_settings import StatedSettings
from proscale.config import TASKS
from proscale.errors import CheckpointError

MAX_BASES = 8
DATASETS = {
    "coco_2017_train_panoptic": "coco_panoptic",
    "coco_2017_train": "coco_instance",
    "ade20k_panoptic_train": "ade20k",
    "ade20k_sem_seg_train": "ade20k",
    "ade20k_instance_train": "ade20k_instance",
    "cityscapes_fine_panoptic_train": "cityscapes",
    "cityscapes_fine_sem_seg_train": "cityscapes",
    "cityscapes_fine_instance_seg_train": "cityscapes_instance",
    "mapillary_vistas_panoptic_train": "mapillary_vistas",
    "mapillary_vistas_sem_seg_train": "mapillary_vistas",
}
"""Data sets as Mask2Former's configurations name them -> our labels tables."""


class _DataLoader(yaml.SafeLoader):
    """A safe loader for which every unknown tag, such as `!!python/object/apply:eval`, is plain data or nothing."""


def _skip_tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if suffix == "python/tuple" and isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return None


_DataLoader.add_multi_constructor("tag:yaml.org,2002:", _skip_tag)
_DataLoader.add_multi_constructor("!", _skip_tag)


def read_detectron2_config(path: Path) -> StatedSettings:
    """Read a YAML and the `_BASE_` files that it builds on, as far as they are there.

    Raises:
        CheckpointError: a file is not YAML, or describes a network that differs from Mask2Former and PRO-SCALE; the text says where.
    """
    values = _with_bases(path)
    _check_supported(values, path)
    head, former = "MODEL.SEM_SEG_HEAD.", "MODEL.MASK_FORMER."
    tests = {task: _get(values, former + f"TEST.{task.upper()}_ON") for task in TASKS}
    task = next((name for name in TASKS if tests[name]), None)
    before = _get(values, former + "TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE")
    dataset, unknown = _dataset(_get(values, "DATASETS.TRAIN") or _get(values, "DATASETS.TEST"))
    layers = _whole(values, former + "DEC_LAYERS")
    claims = {
        "classes": _get(values, head + "NUM_CLASSES"),
        "pixel_decoder.hidden_dim": _get(values, former + "HIDDEN_DIM"),
        "transformer_decoder.queries": _get(values, former + "NUM_OBJECT_QUERIES"),
        "transformer_decoder.layers": None if layers is None else layers - 1,
        "transformer_decoder.ffn_dim": _get(values, former + "DIM_FEEDFORWARD"),
    }
    if "Swin" in str(_get(values, "MODEL.BACKBONE.NAME")):
        names = {"embed_dim": "EMBED_DIM", "depths": "DEPTHS", "heads": "NUM_HEADS", "window": "WINDOW_SIZE"}
        claims |= {f"backbone.{ours}": _tuple(_get(values, f"MODEL.SWIN.{theirs}")) for ours, theirs in names.items()}
    if _is_proscale(values):
        claims |= {
            "pixel_decoder.encoder.layers": _tuple(_get(values, "MODEL.PROSCALE.PROSCALE_NUM_LAYERS")),
            "pixel_decoder.pixel_embedding": _get(values, "MODEL.PROSCALE.MASK_OUTPUT_OPS"),
        }
    else:
        claims["pixel_decoder.encoder.layers"] = _get(values, head + "TRANSFORMER_ENC_LAYERS")
    return StatedSettings(
        heads=_whole(values, former + "NHEADS"),
        temperature=_real(values, "MODEL.PROSCALE.EXCITE_TEMP") if _is_proscale(values) else None,
        residual=bool(_get(values, "MODEL.PROSCALE.RESIDUAL")) if _is_proscale(values) else None,
        task=task,
        combine_first=None if task is None else task == "semantic" and not before,
        dataset=dataset,
        unknown_dataset=unknown,
        mean=_three(values, "MODEL.PIXEL_MEAN"),
        std=_three(values, "MODEL.PIXEL_STD"),
        short_side=_whole(values, "INPUT.MIN_SIZE_TEST"),
        long_side=_whole(values, "INPUT.MAX_SIZE_TEST"),
        threshold=_real(values, former + "TEST.OBJECT_MASK_THRESHOLD"),
        overlap_threshold=_real(values, former + "TEST.OVERLAP_THRESHOLD"),
        max_instances=_whole(values, "TEST.DETECTIONS_PER_IMAGE"),
        claims=tuple((name, value) for name, value in claims.items() if value is not None),
    )


def _dataset(names: Any) -> tuple[str | None, str | None]:
    """The labels table of data sets, and otherwise their names: what is not known, or not one, says nothing of the classes."""
    listed = [names] if isinstance(names, str) else [str(name) for name in names or ()]
    plain = [re.sub(r"_(val|test|trainval)(?=_|$)", "_train", name).removesuffix("_with_sem_seg") for name in listed]
    tables = {DATASETS.get(name) for name in plain}
    if len(tables) == 1 and None not in tables:
        return tables.pop(), None
    return None, ", ".join(listed) or None


def _is_proscale(values: Mapping[str, Any]) -> bool:
    return str(_get(values, "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME")) == "PROSCALE"


UNSUPPORTED = {
    "MODEL.RESNETS.STRIDE_IN_1X1": (True, "the stride must be in the 3x3 convolution"),
    "MODEL.SWIN.APE": (True, "absolute position embeddings are not supported"),
    "MODEL.SWIN.PATCH_NORM": (False, "Swin without patch norm is not supported"),
    "MODEL.MASK_FORMER.PRE_NORM": (True, "pre-norm layers are not supported"),
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": (True, "input projections in the transformer decoder are not supported"),
    "INPUT.FORMAT": ("BGR", "pictures are fed as RGB"),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (8, "mask features must have stride 4"),
}
"""Settings that shapes do not show, with the value that means another network."""


def _check_supported(values: Mapping[str, Any], path: Path) -> None:
    for name, (bad, why) in UNSUPPORTED.items():
        if _get(values, name) == bad:
            raise CheckpointError(f"{path}: {name} is {bad}; {why}")


def _with_bases(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(MAX_BASES):
        own = _read(path)
        base = own.pop("_BASE_", None)
        values = _merged(own, values)
        # A base that is not there leaves its settings unsaid; whoever needs one of them asks for it.
        if not isinstance(base, str) or not (path := path.parent / base).is_file():
            return values
    raise CheckpointError(f"{path}: more than {MAX_BASES} configurations build on each other")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_DataLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a detectron2 configuration: it holds no settings")
    return values


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _get(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str) and value[:1] in "([":
        try:
            return ast.literal_eval(value)  # detectron2 writes tuples as text
        except (ValueError, SyntaxError):
            return value
    return value


def _whole(values: Mapping[str, Any], path: str) -> int | None:
    value = _get(values, path)
    if value is not None and (not isinstance(value, int) or value < 1):
        raise CheckpointError(f"{path} should be a whole number above 0, not {value!r}")
    return value


def _real(values: Mapping[str, Any], path: str) -> float | None:
    value = _get(values, path)
    if value is not None and not isinstance(value, int | float):
        raise CheckpointError(f"{path} should be a number, not {value!r}")
    return None if value is None else float(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _three(values: Mapping[str, Any], path: str) -> tuple[float, float, float] | None:
    value = _get(values, path)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(part, int | float) for part in value):
        raise CheckpointError(f"{path} should be three numbers, not {value!r}")
    return float(value[0]), float(value[1]), float(value[2])
