"""Classes of a model in another order: the rows of the class head, the categories, and what names classes move together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from proscale.config import EomtModelConfig, ModelConfig, NetworkConfig
from proscale.errors import CheckpointError
from proscale.labels import Category, label_table, match_names, read_categories_file, table_names

HEADS = {ModelConfig: "transformer_decoder.class_head", EomtModelConfig: "class_head"}
"""Linear layers with a row per class, and void last; nothing else of these networks belongs to one class."""


@dataclass(frozen=True)
class Order:
    """The classes in the order that is wanted."""

    categories: tuple[Category, ...]
    whole: bool
    """Whether ids, names and kinds are meant too, not the order alone."""
    source: str
    """For people."""


def read_order(asked: str) -> Order:
    """A table's name, a `labels.json`, or a file with a name per line, which says nothing but the order.

    Raises:
        CheckpointError: it is none of these.
    """
    name = asked.replace("-", "_")
    if name in table_names():
        return Order(label_table(name).categories, True, label_table(name).title)
    path = Path(asked)
    if not path.is_file():
        raise CheckpointError(f"--order {asked} is neither a file nor one of {', '.join(table_names())}")
    categories = read_categories_file(path)
    return Order(categories, '"isthing"' in path.read_text(encoding="utf-8"), path.name)


def in_order(
    config: NetworkConfig, categories: Sequence[Category], state: Mapping[str, Tensor], order: Order
) -> tuple[NetworkConfig, tuple[Category, ...], dict[str, Tensor]]:
    """The same model with its classes in another order. Names are compared tolerantly, and each must have its counterpart.

    Raises:
        CheckpointError: the network has no class head that could be moved, or the classes are others; the text lists them.
    """
    head = HEADS.get(type(config))
    if head is None:
        raise CheckpointError("--order is for Mask2Former, PRO-SCALE and EoMT; this network's classes stand in more than one layer")
    ours, wanted = [category.name for category in categories], [category.name for category in order.categories]
    matched = match_names(wanted, ours)
    lacking = [name for i, name in enumerate(wanted) if i not in matched]
    left = [name for j, name in enumerate(ours) if j not in matched.values()]
    if lacking or left:
        said = [f"it names {_listed(lacking)}, which the model lacks"] if lacking else []
        said += [f"it lacks {_listed(left)} of the model"] if left else []
        raise CheckpointError(f"{order.source} is no order of this model's classes: {'; '.join(said)}. --labels FILE renames first.")
    rows = [matched[i] for i in range(len(wanted))]
    moved = dict(state)
    for leaf in ("weight", "bias"):
        tensor = state[f"{head}.{leaf}"]
        moved[f"{head}.{leaf}"] = tensor[torch.tensor([*rows, len(rows)])].contiguous()
    found = tuple(order.categories) if order.whole else tuple(categories[row] for row in rows)
    return renamed(config, {ours[row]: new.name for row, new in zip(rows, found, strict=True)}), found, moved


def renamed(config: NetworkConfig, names: Mapping[str, str]) -> NetworkConfig:
    """The configuration with classes called otherwise: its rule for connected things names them. Args: names: old -> new."""
    connected = tuple(names.get(name, name) for name in config.postprocess.connected)
    return replace(config, postprocess=replace(config.postprocess, connected=connected))


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
