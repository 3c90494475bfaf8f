"""The messages between gateway and worker: requests and answers as tensors and JSON. No torch, no network library.

A request holds three tensors: `PICTURE`, uint8 (H, W, 3), resized and zero-padded (`geometry`); `SIZES`, int32 (4), height and width of
the resized and of the output picture; `OPTIONS`, one JSON text. An answer holds one, `RESULT`, a JSON text.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from proscale.config import TASKS
from proscale.labels import Category
from proscale.results import RLE, ModelInfo, Plan, Prediction, Provenance, Segment, Segmentation, SegmentationOptions

PICTURE, SIZES, OPTIONS, RESULT = "PICTURE", "SIZES", "OPTIONS", "RESULT"
DESCRIBE = json.dumps({"describe": True})
"""`OPTIONS` of a request that asks what is being served; its picture runs through the network all the same."""


@dataclass(frozen=True)
class Answer:
    """What a worker answers for a picture."""

    prediction: Prediction
    batch_size: int
    """Pictures computed together with this one, itself included."""
    fingerprint: str
    """Of the model that answered; another one than described means that the model was swapped."""


@dataclass(frozen=True)
class Description:
    """What a worker serves."""

    info: ModelInfo
    config: Mapping[str, Any]
    """The model's `config.json`."""
    fingerprint: str


def options_to_json(options: SegmentationOptions) -> str:
    """The reverse of `options_from_json`."""
    return json.dumps({name: value for name, value in asdict(options).items() if value is not None and value is not False})


def options_from_json(text: str | bytes) -> SegmentationOptions | None:
    """None for `DESCRIBE`.

    Raises:
        ValueError, TypeError: it is neither.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise TypeError(f"options are a JSON object, not {values!r}")
    if values == {"describe": True}:
        return None
    arguments: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return SegmentationOptions(**arguments)


def prediction_to_json(prediction: Prediction, batch_size: int, fingerprint: str) -> str:
    """The reverse of `prediction_from_json`; the plan does not travel, and a mask's size is the output size."""
    results = {
        task: [
            {name: value for name, value in vars(segment).items() if name != "segmentation"} | {"counts": segment.segmentation.counts}
            for segment in segmentation.segments
        ]
        for task, segmentation in prediction.results.items()
    }
    values = {"results": results, "timings": dict(prediction.timings), "batch_size": batch_size, "model": fingerprint}
    maps = {task: base64.b64encode(each.confidence).decode() for task, each in prediction.results.items() if each.confidence is not None}
    if maps:
        values["confidence"] = maps
    return json.dumps(values, separators=(",", ":"))


def prediction_from_json(text: str | bytes, size: tuple[int, int], plan: Plan) -> Answer:
    """Args: size: (height, width) of the masks; plan: the picture's."""
    values = json.loads(text)
    maps = {task: base64.b64decode(text) for task, text in values.get("confidence", {}).items()}
    results = {
        task: Segmentation(task, size, tuple(_segment(segment, size) for segment in segments), maps.get(task))
        for task, segments in values["results"].items()
    }
    return Answer(Prediction(results, plan, values["timings"]), values["batch_size"], values["model"])


def description_to_json(info: ModelInfo, config: Mapping[str, Any], fingerprint: str) -> str:
    """The reverse of `description_from_json`."""
    values = asdict(info)
    values["source"] = values.pop("loaded_from")  # the name that gateways and workers of every version know
    return json.dumps({"info": values, "config": config, "fingerprint": fingerprint})


def description_from_json(text: str | bytes) -> Description:
    """What a worker serves, from its own words."""
    values = json.loads(text)
    info = values["info"]
    provenance = info["provenance"]
    info |= {
        "loaded_from": info.pop("source"),
        "layers": tuple(info["layers"]),
        "tasks": tuple(info.get("tasks", TASKS)),
        "categories": tuple(Category(**category) for category in info["categories"]),
        "provenance": provenance and Provenance(**provenance | {"changes": tuple(provenance["changes"])}),
    }
    return Description(ModelInfo(**info), values["config"], values["fingerprint"])


def _segment(values: dict[str, Any], size: tuple[int, int]) -> Segment:
    mask = RLE(size, values.pop("counts"))
    return Segment(**values | {"bbox": tuple(values["bbox"]), "segmentation": mask})
