"""Categories: what a class index means to the user. Published tables lie in `data/labels/`."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
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
    """Whether a checkpoint's own names are a table's, in its order; compared as `same_name` does."""
    if len(names) != len(table.categories):
        return False
    same = sum(same_name(name, category.name) for name, category in zip(names, table.categories, strict=True))
    return same >= MATCHING * len(names)


@lru_cache(4096)
def synonyms(name: str) -> tuple[str, ...]:
    """What a name says, in a form that can be compared: case, spaces at the ends, hyphens and underscores are no difference.

    Commas and semicolons separate synonyms: "Road, route" -> ("road", "route").
    """
    parts = (" ".join(re.sub(r"[\s_-]+", " ", part).split()).casefold() for part in re.split(r"[,;]", name))
    return tuple(part for part in parts if part)


def same_name(one: str, other: str) -> bool:
    """Whether two names of one class agree: their first synonyms are the same."""
    return synonyms(one)[:1] == synonyms(other)[:1]


def match_names(names: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """Which of `others` each of `names` is: place -> place, for those that have a counterpart.

    Whole names go before first synonyms, these before any synonym in common, and this counts only where it leaves no choice
    ("screen door, screen" is not "screen, silver screen"). No counterpart is used twice.
    """
    ours, theirs = [synonyms(name) for name in names], [synonyms(name) for name in others]
    matched: dict[int, int] = {}
    passes: tuple[Callable[[tuple[str, ...], tuple[str, ...]], bool], ...] = (
        lambda a, b: a == b,
        lambda a, b: a[:1] == b[:1],
        lambda a, b: bool(set(a) & set(b)),
    )
    for agree in passes:
        free = [i for i in range(len(ours)) if i not in matched and ours[i]]
        left = [j for j in range(len(theirs)) if j not in matched.values()]
        candidates = {i: [j for j in left if agree(ours[i], theirs[j])] for i in free}
        claims = Counter(j for found in candidates.values() for j in found)
        matched |= {i: found[0] for i, found in candidates.items() if len(found) == 1 and claims[found[0]] == 1}
    return matched


def read_categories_file(path: Path) -> tuple[Category, ...]:
    """Categories of a `labels.json` (a list of id, name, isthing), an `id2label` object, or a text file with a name per line.

    In a text file and an `id2label` object all are things; in a text file ids count from 0.

    Raises:
        CheckpointError: the file is none of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.lstrip().startswith(("[", "{")):
            names = [line.strip() for line in text.splitlines() if line.strip()]
            return tuple(Category(i, name, True) for i, name in enumerate(names))
        values = json.loads(text)
        if isinstance(values, dict) and "categories" not in values:
            values = values.get("id2label", values)
            return tuple(Category(number, str(name), True) for number, name in sorted((int(key), name) for key, name in values.items()))
        rows = values["categories"] if isinstance(values, dict) else values
        return tuple(Category(int(row["id"]), str(row["name"]), bool(row["isthing"])) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is neither a list of {{id, name, isthing}} nor a name per line: {error!r}") from error


def contiguous_categories(classes: int, thing_classes: frozenset[int] | None = None) -> tuple[Category, ...]:
    """Categories named by their index, for checkpoints that bring no labels.

    Args:
        classes: number of classes K without void.
        thing_classes: indices that are things; None means all.
    """
    return tuple(Category(i, f"class {i}", thing_classes is None or i in thing_classes) for i in range(classes))
