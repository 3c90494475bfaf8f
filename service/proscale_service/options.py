"""Parameters of a request -> what the engine is asked for; labels as users spell them -> labels as the model has them."""

import difflib
from collections.abc import Sequence
from typing import Protocol

from proscale.config import Task
from proscale.errors import ParameterError
from proscale.labels import Category, match_names, synonyms
from proscale.planning import check_tasks
from proscale.results import ModelInfo, Plan, SegmentationOptions
from proscale.tiles import Layout, Tiling, lay_out
from proscale_service.errors import InvalidParameter
from proscale_service.requests import PlanParameters, SegmentParameters


def options_of(parameters: SegmentParameters, info: ModelInfo) -> SegmentationOptions:
    """What to ask the engine for. Ranges were checked where the parameters were parsed.

    Raises:
        InvalidParameter: a task that the model cannot do, or a label that it does not have.
    """
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


def resolve_labels(asked: Sequence[str], categories: Sequence[Category]) -> tuple[str, ...]:
    """The model's own spelling of every asked label, each once.

    Args:
        asked: labels, or several of them comma separated; a value that is a label as a whole is not split. Case, hyphens, underscores and
            spaces at the ends do not matter, and a synonym ("road" of "road, route") does where it leaves no choice.

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
        raise InvalidParameter("; ".join(_unknown_label(label, names) for label in dict.fromkeys(unknown)))
    return tuple(dict.fromkeys(found))


def _by_synonym(label: str, names: Sequence[str]) -> str | None:
    place = match_names([label], names).get(0)
    return None if place is None else names[place]


def _unknown_label(label: str, names: Sequence[str]) -> str:
    known = {name.casefold(): name for name in names}
    near = list(dict.fromkeys(known[name] for name in difflib.get_close_matches(label.casefold(), known, n=3)))
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "GET /models lists the known ones"
    return f"labels: the model has no label {label[:80]!r}; {hint}"
