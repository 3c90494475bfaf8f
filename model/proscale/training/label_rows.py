"""A trained model as the beginning of a run on other classes: rows of the class head go with their names, not with their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proscale.config import ModelConfig
from proscale.errors import CheckpointError
from proscale.labels import Category, match_names

CLASS_HEAD = ("transformer_decoder.class_head.weight", "transformer_decoder.class_head.bias")


@dataclass(frozen=True)
class Beginning:
    """Weights that fit the new classes, and what was done to them."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def with_classes(state: Mapping[str, Tensor], old: Sequence[Category], new: Sequence[Category], fresh: Mapping[str, Tensor]) -> Beginning:
    """The weights with a class head for `new`: a class that `old` has by name keeps its row, the others take theirs from `fresh`.

    Args:
        state: of a network with classes `old`; void is the last row.
        fresh: state of a new network with classes `new`.
    """
    if missing := [name for name in CLASS_HEAD if name not in state]:
        raise CheckpointError(f"the checkpoint has no {missing[0]}: it is not of a Mask2Former or PRO-SCALE network")
    if len(state[CLASS_HEAD[0]]) != len(old) + 1:
        raise CheckpointError(f"the class head has {len(state[CLASS_HEAD[0]])} rows for {len(old)} classes and void")
    kept = match_names([category.name for category in new], [category.name for category in old])
    started = dict(state)
    for name in CLASS_HEAD:
        rows = fresh[name].detach().clone().to(torch.float32)
        for i, j in kept.items():
            rows[i] = state[name][j]
        rows[-1] = state[name][-1]
        started[name] = rows
    return Beginning(started, tuple(_notes(old, new, kept)))


def _notes(old: Sequence[Category], new: Sequence[Category], kept: Mapping[int, int]) -> list[str]:
    fresh = [category.name for i, category in enumerate(new) if i not in kept]
    dropped = [category.name for j, category in enumerate(old) if j not in kept.values()]
    if not fresh and not dropped and all(i == j for i, j in kept.items()):
        return []
    notes = [f"class head: {len(kept)} of {len(new)} classes keep their weights, by name"]
    if any(i != j for i, j in kept.items()):
        notes.append("class head: the classes have another order than in the checkpoint; their rows were moved")
    if fresh:
        notes.append(f"class head: new and untrained: {_listed(fresh)}")
    if dropped:
        notes.append(f"class head: dropped: {_listed(dropped)}")
    return notes


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def same_body(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two networks differ in no more than classes, name, and what surrounds the network."""
    plain = {"name": "", "classes": 1, "preprocess": other.preprocess, "postprocess": other.postprocess}
    return replace(one, **plain) == replace(other, **plain)  # type: ignore[arg-type]  # of these fields' types
