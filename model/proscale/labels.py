"""Categories: what a class index means to the user."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One class of a data set. The network's class index is its position in the model's tuple of categories."""

    id: int
    """Id in the data set, not necessarily contiguous (COCO: 1-90 things, to 200 stuff)."""
    name: str
    isthing: bool
    """True for countable things, False for stuff."""


def contiguous_categories(classes: int, thing_classes: frozenset[int] | None = None) -> tuple[Category, ...]:
    """Categories named by their index, for checkpoints that bring no labels.

    Args:
        classes: number of classes K without void.
        thing_classes: indices that are things; None means all.
    """
    return tuple(Category(i, f"class {i}", thing_classes is None or i in thing_classes) for i in range(classes))
