"""JSON index files with every field checked: an error names the file, the entry, the field and the remedy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proscale.errors import DataError
from proscale.labels import Category


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        DataError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def rows_of(values: Any, field: str, path: Path) -> list[Any]:
    """A list at the top of an index file."""
    if not isinstance(values, Mapping) or not isinstance(values.get(field), list):
        raise DataError(f"{path} has no list {field!r}; COCO's format has the lists images, annotations and categories")
    rows: list[Any] = values[field]
    return rows


def field_of(row: Any, field: str, kinds: type | tuple[type, ...], path: Path, where: str, remedy: str = "") -> Any:
    """One field of an entry.

    Args:
        kinds: what it may be.
        where: names the entry, such as `annotations[3]`.
        remedy: a sentence for the message.
    """
    if not isinstance(row, Mapping) or field not in row:
        raise DataError(f"{path}: {where} has no {field!r}. {remedy or 'Add it.'}")
    value = row[field]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in (kinds if isinstance(kinds, tuple) else (kinds,))):
        raise DataError(f"{path}: {field!r} of {where} is {_short(value)}. {remedy or 'Correct it.'}")
    return value


def integer_of(row: Any, field: str, path: Path, where: str, remedy: str = "") -> int:
    """A whole number, also one written as 3.0."""
    value = field_of(row, field, (int, float), path, where, remedy)
    if value != int(value):
        raise DataError(f"{path}: {field!r} of {where} is {value}, not a whole number. {remedy or 'Correct it.'}")
    return int(value)


def crowd_of(row: Mapping[str, Any], path: Path, where: str) -> bool:
    """`iscrowd`, false where it is left out."""
    value = row.get("iscrowd", 0)
    if value not in (0, 1):
        raise DataError(f"{path}: 'iscrowd' of {where} is {_short(value)}; it is 0 or 1")
    return bool(value)


def categories_of(values: Any, path: Path, things_only: bool = False) -> tuple[Category, ...]:
    """The categories of a COCO index file.

    Args:
        things_only: an instances file: without `isthing` every category is a thing.
    """
    categories = []
    for i, row in enumerate(rows_of(values, "categories", path)):
        where = f"categories[{i}]"
        number = integer_of(row, "id", path, where)
        name = field_of(row, "name", str, path, where)
        if things_only and "isthing" not in row:
            isthing = True
        else:
            remedy = "Say 1 for countable things, 0 for stuff; in a panoptic file every category needs it."
            isthing = bool(field_of(row, "isthing", (int, bool), path, where, remedy))
        categories.append(Category(number, name, isthing))
    if not categories:
        raise DataError(f"{path} lists no categories")
    for what, seen in (("id", [c.id for c in categories]), ("name", [c.name for c in categories])):
        if twice := repeated(seen):
            raise DataError(f"{path} has two categories of the {what} {twice[0]!r}; each needs its own")
    return tuple(categories)


def repeated(values: Sequence[Any]) -> list[Any]:
    """Values that occur more than once, in order."""
    seen: set[Any] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
