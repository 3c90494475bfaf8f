"""Tensor transforms that a rename table cannot say: matrices that one layout packs and another splits."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proscale.checkpoints.rename_tensors import template_pattern
from proscale.checkpoints.strict_loading import listed
from proscale.errors import CheckpointError

Packing = tuple[str, tuple[str, ...]]
"""The packed name and the names of its parts, first rows first; both hold the same `{stem}`, and `{leaf}` for weight or bias."""


def pack_rows(state: Mapping[str, Tensor], packings: Sequence[Packing]) -> dict[str, Tensor]:
    """Stack parts, such as query, key and value projections, into one tensor.

    Args:
        state: name -> tensor; what no packing names is carried over.
        packings: which parts make which tensor.

    Raises:
        CheckpointError: a part is missing, or parts have different widths; they are named.
    """
    packed = dict(state)
    for whole, parts in packings:
        pattern = re.compile(template_pattern(parts[0]))
        for name in state:
            if not (match := pattern.fullmatch(name)):
                continue
            names = [part.format(**match.groupdict()) for part in parts]
            if missing := [part for part in names if part not in state]:
                raise CheckpointError(f"{name} lacks its companions: {listed(missing)}")
            tensors = [packed.pop(part) for part in names]
            if len({tuple(tensor.shape) for tensor in tensors}) > 1:
                raise CheckpointError(f"{listed(names)} are of different shapes")
            packed[whole.format(**match.groupdict())] = torch.cat(tensors)
    return packed


def split_rows(state: Mapping[str, Tensor], packings: Sequence[Packing]) -> dict[str, Tensor]:
    """The reverse of `pack_rows`: equal shares of the rows, in order."""
    split: dict[str, Tensor] = {}
    patterns = [(re.compile(template_pattern(whole)), parts) for whole, parts in packings]
    for name, tensor in state.items():
        for pattern, parts in patterns:
            if match := pattern.fullmatch(name):
                for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
                    split[part.format(**match.groupdict())] = rows.clone()
                break
        else:
            split[name] = tensor
    return split
