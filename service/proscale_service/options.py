"""Parameters of a request -> what the engine is asked for; labels as users spell them -> labels as the model has them."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from proscale.config import Task
from proscale.errors import ParameterError
from proscale.formats.cleaning import CleaningOptions
from proscale.labels import Category, match_names, synonyms
from proscale.planning import check_tasks
from proscale.results import ModelInfo, Plan, SegmentationOptions
from proscale.tiles import Layout, Tiling, lay_out
from proscale_service.errors import InvalidParameter
from proscale_service.requests import PlanParameters, SegmentParameters

SHOWN_LABELS = 8
"""Labels that an error tells."""


def options_of(parameters: SegmentParameters, info: ModelInfo) -> SegmentationOptions:
    """What to ask the engine for. Ranges were checked where the parameters were parsed.

    Raises:
        InvalidParameter: a task that the model cannot do, or a label, to be kept or to be merged, that it does not have.
    """
    cleaning_of(parameters, info)
    return SegmentationOptions(
        tasks=tasks_of(parameters, info),
        threshold=parameters.threshold,
        mask_threshold=parameters.mask_threshold,
        overlap_threshold=parameters.overlap_threshold,
        labels=None if parameters.labels is None else resolve_labels(parameters.labels, info.categories),
        max_segments=parameters.max_segments,
        confidence=parameters.confidence,
    )


def tasks_of(parameters: SegmentParameters | PlanParameters, info: ModelInfo) -> tuple[Task, ...]:
    """The tasks to do. Raises InvalidParameter, with the remedy, for one that the model cannot do."""
    tasks = parameters.tasks_of(info)
    try:
        check_tasks(tasks, info.tasks)
    except ParameterError as error:
        raise InvalidParameter(str(error)) from error
    return tasks


class Planner(Protocol):
    """What an engine offers."""

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """Of a picture that is segmented as a whole."""
        ...

    def plan_joint(self, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """Of a picture whose windows are apart in the backbone alone."""
        ...


def plan_of(
    parameters: SegmentParameters | PlanParameters, size: tuple[int, int], planner: Planner, tasks: Sequence[Task]
) -> tuple[Plan, Layout | None]:
    """What a picture costs, and where its windows lie; None: it is computed at once. Args: size: (height, width) in pixels.

    Raises:
        InvalidParameter: windows that the model cannot have.
    """
    tiling = parameters.tiling
    if tiling.kind == "off":
        return planner.plan(*size, tasks), None
    try:
        if tiling.kind == "joint":
            return planner.plan_joint(tiling, *size, tasks), None
        layout = lay_out(tiling, *size, planner.plan, tasks)
    except ParameterError as error:
        raise InvalidParameter(str(error)) from error
    return (planner.plan(*size, tasks), None) if layout is None else (layout.plan, layout)


def cleaning_of(parameters: SegmentParameters, info: ModelInfo) -> CleaningOptions | None:
    """The cleaning that is asked for, in the model's own labels; None when none is.

    A merged label has the category id of the model's label of that name, else that of the first label that it stands for, whether or not
    that one is in the picture: so a category is the same in every picture.

    Raises:
        InvalidParameter: a label to be merged that the model does not have, or that is merged into two.
    """
    cleaning = parameters.cleaning
    if cleaning is None or not cleaning.merge_labels:
        return cleaning
    ids = {category.name: category.id for category in reversed(info.categories)}
    merges = {new: resolve_labels(olds, info.categories, "merge_labels") for new, olds in cleaning.merge_labels.items()}
    counts = Counter(old for olds in merges.values() for old in olds)
    if twice := [old for old, count in counts.items() if count > 1]:
        raise InvalidParameter(f"merge_labels: {', '.join(map(repr, twice))} can be merged into one label only")
    return replace(cleaning, merge_labels=merges, category_ids={new: ids.get(new, ids[olds[0]]) for new, olds in merges.items()})


def resolve_labels(asked: Sequence[str], categories: Sequence[Category], parameter: str = "labels") -> tuple[str, ...]:
    """The model's own spelling of every asked label, each once.

    Args:
        asked: labels, or several of them comma separated; a value that is a label as a whole is not split. Case, hyphens, underscores and
            spaces at the ends do not matter, and a synonym ("road" of "road, route") does where it leaves no choice.
        parameter: what the message calls the parameter.

    Raises:
        InvalidParameter: names every unknown label and the nearest known ones.
    """
    names = [category.name for category in categories]
    known: dict[object, str] = {synonyms(name): name for name in reversed(names)} | {name: name for name in names}
    found, unknown = [], []
    for value in asked:
        parts = [value] if value in known or synonyms(value) in known else [part.strip() for part in value.split(",")]
        for part in parts:
            label = known.get(part) or known.get(synonyms(part)) or _by_synonym(part, names)
            if label is None:
                unknown.append(part)
            else:
                found.append(label)
    if unknown:
        raise InvalidParameter("; ".join(_unknown_label(parameter, label, names) for label in dict.fromkeys(unknown)))
    return tuple(dict.fromkeys(found))


def _by_synonym(label: str, names: Sequence[str]) -> str | None:
    place = match_names([label], names).get(0)
    return None if place is None else names[place]


def _unknown_label(parameter: str, label: str, names: Sequence[str]) -> str:
    known = {name.casefold(): name for name in names}
    near = list(dict.fromkeys(known[name] for name in difflib.get_close_matches(label.casefold(), known, n=3)))
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(map(repr, names[:SHOWN_LABELS]))}"
    more = f" and {len(names) - SHOWN_LABELS} more (GET /models, or labels.json in the model's folder)"
    return f"{parameter}: the model has no label {label[:80]!r}; {hint}{'' if near or len(names) <= SHOWN_LABELS else more}"
