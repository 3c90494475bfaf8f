"""Categories: what a class index means to the user. Published tables lie in `data/labels/`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from proscale.errors import CheckpointError

FOLDER = Path(__file__).resolve().parent / "data" / "labels"
MATCHING = 0.8
"""Share of names that must agree for a checkpoint's own names to be those of a table."""


@dataclass(frozen=True)
class Category:
    """One class of a data set. The network's class index is its position in the model's tuple of categories."""

    id: int
    """Id in the data set, not necessarily contiguous (COCO: 1-90 things, to 200 stuff)."""
    name: str
    isthing: bool
    """True for countable things, False for stuff."""


@dataclass(frozen=True)
class LabelTable:
    """The categories of a data set, in the order of a network's classes."""

    name: str
    title: str
    categories: tuple[Category, ...]
    short_side: int
    """Size at which models for this data set are usually tested, in pixels; see `PreprocessConfig`."""
    long_side: int


def table_names() -> tuple[str, ...]:
    """Names of the published tables."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@cache
def label_table(name: str) -> LabelTable:
    """A published table.

    Raises:
        CheckpointError: no such table; the text lists them.
    """
    if name not in table_names():
        raise CheckpointError(f"no labels table {name!r}; there are {', '.join(table_names())}")
    values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    categories = tuple(Category(value["id"], value["name"], value["isthing"]) for value in values["categories"])
    return LabelTable(name, values["title"], categories, values["short_side"], values["long_side"])


def tables_of(classes: int) -> Iterator[LabelTable]:
    """The published tables with this number of classes."""
    return (table for table in map(label_table, table_names()) if len(table.categories) == classes)


def names_agree(names: tuple[str, ...], table: LabelTable) -> bool:
    """Whether a checkpoint's own names are a table's, synonyms ("road, route") and spelling aside."""
    if len(names) != len(table.categories):
        return False
    same = sum(_key(name) == _key(category.name) for name, category in zip(names, table.categories, strict=True))
    return same >= MATCHING * len(names)


def contiguous_categories(classes: int, thing_classes: frozenset[int] | None = None) -> tuple[Category, ...]:
    """Categories named by their index, for checkpoints that bring no labels.

    Args:
        classes: number of classes K without void.
        thing_classes: indices that are things; None means all.
    """
    return tuple(Category(i, f"class {i}", thing_classes is None or i in thing_classes) for i in range(classes))


def _key(name: str) -> str:
    return name.split(",")[0].strip().lower().replace("_", " ")
