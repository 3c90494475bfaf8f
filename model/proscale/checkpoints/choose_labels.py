"""Which categories a checkpoint's classes are: from what it says itself, or from what the user says."""

from dataclasses import dataclass
from pathlib import Path

from proscale.checkpoints.stated_settings import StatedSettings
from proscale.errors import CheckpointError
from proscale.labels import (
    Category,
    LabelTable,
    contiguous_categories,
    label_table,
    match_names,
    names_agree,
    read_categories_file,
    synonyms,
    table_names,
    tables_of,
)

NUMBERED = "numbered"
SELF_EVIDENT = {
    133: "coco_panoptic",
    80: "coco_instance",
    150: "ade20k",
    19: "cityscapes",
    65: "mapillary_vistas",
    66: "mapillary_vistas_66",
}
"""Numbers of classes that, without any name, are taken for the data set that made them known."""

_VOID = ("background", "void", "unlabeled", "unlabelled", "ignore", "ignored", "no object", "none", "null", "n/a")
VOID_NAMES = {(name,) for name in _VOID}
"""What files call the class that is none, where they count it."""


@dataclass(frozen=True)
class Labels:
    """The categories, why these, and the table that they are, if they are one."""

    categories: tuple[Category, ...]
    reason: str
    table: LabelTable | None = None


def choose_labels(classes: int, hints: StatedSettings, asked: str | None) -> Labels:
    """Decide on the categories.

    Args:
        classes: number of classes of the network, without void.
        hints: what configuration files say.
        asked: the user's word: a table's name, `numbered`, or a file (`labels.json`, or one name a line).

    Raises:
        CheckpointError: nothing says what the classes are, or it does not fit their number; the text says what to give.
    """
    if asked is not None:
        return _asked(classes, asked)
    if hints.label_names is not None:
        return _named(*_fitting(classes, hints.label_names, hints.label_ids))
    if hints.dataset is not None:
        table = label_table(hints.dataset)
        if len(table.categories) == classes:
            return Labels(table.categories, f"{table.title}, as its configuration says", table)
        raise CheckpointError(
            f"its configuration says {table.title}, with {len(table.categories)} classes; the weights have {classes}. {_remedy()}"
        )
    if hints.unknown_dataset is not None:
        raise CheckpointError(
            f"its configuration names the data set {hints.unknown_dataset!r}, which says nothing here of its {classes} classes. {_remedy()}"
        )
    if classes in SELF_EVIDENT:
        table = label_table(SELF_EVIDENT[classes])
        return Labels(table.categories, f"{table.title}, because there are {classes} classes (if they are others, give --labels)", table)
    raise CheckpointError(f"nothing says what the {classes} classes are. {_remedy()}")


def _asked(classes: int, asked: str) -> Labels:
    if asked == NUMBERED:
        return Labels(contiguous_categories(classes), "numbered, as asked; all are things")
    name = asked.replace("-", "_")
    if name in table_names():
        table = label_table(name)
        labels = Labels(table.categories, f"{table.title}, as asked", table)
    elif Path(asked).is_file():
        labels = Labels(read_categories_file(Path(asked)), f"the file {Path(asked).name}")
    else:
        raise CheckpointError(f"--labels {asked} is neither a file nor one of {', '.join((*table_names(), NUMBERED))}")
    if len(labels.categories) != classes:
        raise CheckpointError(f"--labels {asked} has {len(labels.categories)} categories, the weights have {classes} classes")
    return labels


def _fitting(classes: int, names: tuple[str, ...], ids: tuple[int, ...] | None) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """A file's names, without one for void that is one too many, first or last.

    Raises:
        CheckpointError: their number is another than the weights'.
    """
    for place, rest in ((0, slice(1, None)), (-1, slice(None, -1))):
        if len(names) == classes + 1 and synonyms(names[place])[:1] in VOID_NAMES:
            return names[rest], None if ids is None else ids[rest]
    if len(names) != classes:
        raise CheckpointError(f"its configuration names {len(names)} classes, the weights have {classes}. {_remedy()}")
    return names, ids


def _named(names: tuple[str, ...], ids: tuple[int, ...] | None) -> Labels:
    for table in tables_of(len(names)):
        matched = match_names(names, [category.name for category in table.categories])
        if len(matched) == len(names):
            # The checkpoint's own spelling and order, the data set's ids and things.
            found = (table.categories[matched[i]] for i in range(len(names)))
            categories = tuple(Category(c.id, name.strip(), c.isthing) for c, name in zip(found, names, strict=True))
            return Labels(categories, f"its own names, which are those of {table.title}", table)
        if names_agree(names, table):
            # The checkpoint's own spelling, the data set's ids and things.
            categories = tuple(Category(c.id, name.strip(), c.isthing) for c, name in zip(table.categories, names, strict=True))
            return Labels(categories, f"its own names, which are those of {table.title}", table)
    categories = tuple(Category(i, name.strip(), True) for i, name in zip(ids or range(len(names)), names, strict=True))
    return Labels(categories, "its own names; nothing says which are stuff, so all are things (give --labels FILE to say)")


def _remedy() -> str:
    return f"Give --labels with one of {', '.join((*table_names(), NUMBERED))}, or a file with a name per line or of {{id, name, isthing}}."
