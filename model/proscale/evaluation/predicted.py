"""What one picture was answered with, whoever answered: a model, a service, files. Category ids are the data set's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.datasets import VOID, AnnotatedPicture, PanopticMap, PanopticSegment
from proscale.errors import DataError
from proscale.evaluation.average_precision import ScoredInstance
from proscale.results import Segmentation
from proscale.rle import decode


@dataclass(frozen=True)
class Predicted:
    """Results for one picture; None for what was not asked for."""

    size: tuple[int, int] | None
    """(height, width) in pixels; None: what a list of no objects cannot say."""
    panoptic: PanopticMap | None = None
    instances: tuple[ScoredInstance, ...] | None = None
    semantic: NDArray[np.int32] | None = None
    seconds: float | None = None
    """From the decoded picture (a service: from the file's bytes) to the results."""
    flops: int | None = None
    baseline_flops: int | None = None


class Source(Protocol):
    """Where results come from."""

    tasks: tuple[Task, ...]
    """What it can answer."""
    concurrency: int
    """How many pictures it may be asked for at the same time."""

    def predict(self, picture: AnnotatedPicture, tasks: Sequence[Task]) -> Predicted:
        """Results for one picture."""
        ...


def predicted_from(results: Mapping[Task, Segmentation], to_data: Mapping[int, int], stuff: frozenset[int]) -> Predicted:
    """Results of the predictor or the service in the data set's categories; segments of others are left out.

    Args:
        results: by task.
        to_data: category id of the model -> of the data set.
        stuff: the data set's stuff: of these a panoptic map has one segment each.
    """
    panoptic = results.get("panoptic")
    instance, semantic = results.get("instance"), results.get("semantic")
    return Predicted(
        next(iter(results.values())).size,
        None if panoptic is None else panoptic_map(panoptic, to_data, stuff),
        None
        if instance is None
        else tuple(ScoredInstance(to_data[s.category_id], s.score, s.segmentation) for s in instance.segments if s.category_id in to_data),
        None if semantic is None else semantic_map(semantic, to_data),
    )


def panoptic_map(result: Segmentation, to_data: Mapping[int, int], stuff: frozenset[int]) -> PanopticMap:
    """Panoptic segments as one map, ids from 1."""
    ids = np.zeros(result.size, np.int32)
    segments: dict[int, PanopticSegment] = {}
    stuff_ids: dict[int, int] = {}
    for segment in result.segments:
        category = to_data.get(segment.category_id)
        if category is None:
            continue
        number = stuff_ids.get(category, len(segments) + 1)
        if category in stuff:
            stuff_ids[category] = number
        ids[decode(segment.segmentation)] = number
        segments[number] = PanopticSegment(number, category)
    return PanopticMap(ids, tuple(segments.values()))


def semantic_map(result: Segmentation, to_data: Mapping[int, int]) -> NDArray[np.int32]:
    """Semantic segments as one map of category ids."""
    classes = np.full(result.size, VOID, np.int32)
    for segment in result.segments:
        if (category := to_data.get(segment.category_id)) is not None:
            classes[decode(segment.segmentation)] = category
    return classes


def check_size(picture: AnnotatedPicture, predicted: tuple[int, int], annotated: tuple[int, int]) -> None:
    """Raise DataError, with the likely reason, when a result and its annotation differ in size."""
    if predicted == annotated:
        return
    turned = predicted == annotated[::-1]
    reason = (
        "The picture is turned by its EXIF orientation and its annotation is not: turn the pixels for good, and remove the tag"
        if turned
        else "They belong to different pictures, or one of them was resized"
    )
    raise DataError(f"{picture.name}: the result is {_by(predicted)}, its annotation {_by(annotated)} (height x width). {reason}.")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
