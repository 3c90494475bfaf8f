"""Which class of a model is which category of a data set: by names, compared tolerantly, and by a mapping file for what is left."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proscale.errors import DataError
from proscale.labels import Category, match_names


@dataclass(frozen=True)
class ClassMatch:
    """The data set's categories that can be judged, and where the model's go."""

    judged: tuple[Category, ...]
    """Categories of the data set that the model knows, in the data set's order."""
    to_data: Mapping[int, int]
    """Category id of the model -> of the data set."""
    unjudged: tuple[str, ...]
    """Names of the data set that the model lacks: their pixels are void, their objects are not asked for."""
    unasked: tuple[str, ...]
    """Names of the model that the data set lacks: their segments are left out."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, for people."""
        notes = []
        if self.unjudged:
            notes.append(f"judged on {len(self.judged)} classes; the model lacks {_listed(self.unjudged)}, which count as void")
        if self.unasked:
            notes.append(f"the data set lacks {_listed(self.unasked)} of the model; their segments are left out")
        return tuple(notes)


def match_classes(model: Sequence[Category], data: Sequence[Category], mapping: Mapping[str, str] | None = None) -> ClassMatch:
    """Match by names, never by number or count.

    Args:
        mapping: names of the model -> names of the data set, for those that differ; several may go to one.

    Raises:
        DataError: no class in common, or the mapping names a class that is not there; the text lists names and the remedy.
    """
    theirs = {category.name: category.id for category in data}
    ours = {category.name: category.id for category in model}
    given = dict(mapping or {})
    for name, there, whose in [(n, ours, "model") for n in given] + [(n, theirs, "data set") for n in given.values()]:
        if name not in there:
            raise DataError(f"the mapping names {name!r}, which the {whose} does not have; it has {_listed(tuple(there))}")
    to_data = {ours[name]: theirs[other] for name, other in given.items()}
    free = [category for category in model if category.name not in given]
    left = [category for category in data if category.id not in to_data.values()]
    matched = match_names([category.name for category in free], [category.name for category in left])
    to_data |= {free[i].id: left[j].id for i, j in matched.items()}
    if not to_data:
        raise DataError(
            f"the model and the data set have no class in common. The model knows {_listed(tuple(ours))}; the data set has "
            f'{_listed(tuple(theirs))}. If some are the same under other names, give a mapping file {{"model name": "data name"}}.'
        )
    known = set(to_data.values())
    return ClassMatch(
        tuple(category for category in data if category.id in known),
        to_data,
        tuple(category.name for category in data if category.id not in known),
        tuple(category.name for category in model if category.id not in to_data),
    )


def read_mapping(path: Path) -> dict[str, str]:
    """A JSON object {model name: data name}.

    Raises:
        DataError: the file is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise DataError(f'{path} is not a mapping {{"model name": "data name"}}')
    return values


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
