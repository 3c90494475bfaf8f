"""What trainers put around a network's weights: dictionaries, prefixes of names, averages beside the weights.

Files of torch.compile (`_orig_mod.`), DataParallel and DDP (`module.`), Lightning (`state_dict`, `model.`), DeepSpeed (`module`),
detectron2, mmengine, timm and the various exponential moving averages are unwrapped. Where a file holds weights and their average,
one of them is taken, and which is said.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proscale.errors import CheckpointError

PLAIN, AVERAGE = "model", "ema"
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher)([._]|$|(?=[A-Z]))", re.IGNORECASE)
_BOOKKEEPING = re.compile(r"optim|sched|scaler|loop|meta|hyper|config|rng|random|loss|metric|param_shapes", re.IGNORECASE)
_ROOTS = re.compile(r"(?P<prefix>(?:.*\.)?)(sem_seg_head\.|model\.pixel_level_module\.)")
"""Where a Mask2Former's own names start, in detectron2's and in transformers' layout."""
_GENERIC = ("module.", "model.module.", "model.")
_OTHERS = ("backbone.", "decode_head.", "segformer.", "auxiliary_head.", "classifier.")
"""What the names of other networks start with."""
MAX_DEPTH = 3


@dataclass(frozen=True)
class Weights:
    """One set of weights in a file."""

    path: str
    """Where it stands in the file: keys, and the prefix of its names; empty for a file of bare weights."""
    state: dict[str, Tensor]
    average: bool


def find_weights(values: Mapping[str, Any]) -> list[Weights]:
    """Every set of weights that a file holds, without its wrappers."""
    found = []
    for keys, tensors in _groups(values, ()):
        tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
        for prefix, state in _by_prefix(tensors):
            path = ".".join([*keys, prefix.rstrip(".")] if prefix else keys)
            found.append(Weights(path, state, _AVERAGE.search(path) is not None))
    networks = [weights for weights in found if any(_ROOTS.match(name) for name in weights.state)]
    return networks or found


def choose_weights(found: list[Weights], wanted: str | None) -> tuple[Weights, str | None]:
    """The set that is meant, and a note when there was a choice.

    Args:
        wanted: `model`, `ema`, or a set's path; None: the weights themselves where there are several sets.

    Raises:
        CheckpointError: no such set, or several that may be meant; the text lists them.
    """
    listed = ", ".join(repr(weights.path or PLAIN) for weights in found)
    if wanted is None and len(found) == 1:
        return found[0], None
    kind = PLAIN if wanted is None else wanted
    named = [weights for weights in found if weights.path == wanted] or [
        weights for weights in found if kind in (PLAIN, AVERAGE) and weights.average == (kind == AVERAGE)
    ]
    if len(named) != 1:
        reason = f"several weights: {listed}" if len(named) > 1 or wanted is None else f"no weights {wanted!r}; it holds {listed}"
        raise CheckpointError(f"the file holds {reason}. Name one of them with --weights")
    rest = [repr(weights.path or PLAIN) for weights in found if weights is not named[0]]
    note = f"weights: {named[0].path or PLAIN!r} of the file" + (f"; it also holds {', '.join(rest)} (--weights)" if rest else "")
    return named[0], note


def _groups(values: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Dictionaries that hold tensors, with the keys that lead to them."""
    tensors = {name: as_tensor(value) for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor | np.ndarray)}
    # Counters such as `epoch` or `n_averaged` stand beside weights; a weight has a name of several parts, or dimensions.
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.ndim or "." in name}
    if tensors:
        yield keys, tensors
    if len(keys) < MAX_DEPTH:
        for name, value in values.items():
            if isinstance(name, str) and isinstance(value, Mapping) and not _BOOKKEEPING.search(name):
                yield from _groups(value, (*keys, name))


def _by_prefix(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Tensors by what stands before a network's own names; one group without prefix where nothing says."""
    prefixes = {match["prefix"] for name in tensors if (match := _ROOTS.match(name))}
    if not prefixes:
        prefix = _common_prefix(tensors)
        yield prefix, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        return
    for prefix in sorted(prefixes):
        longer = tuple(other for other in prefixes if len(other) > len(prefix) and other.startswith(prefix))
        # What lies beside the network's prefix (a criterion, a metric) is no part of it.
        own = (name for name in tensors if name.startswith(prefix) and not name.startswith(longer))
        yield prefix, {name.removeprefix(prefix): tensors[name] for name in own}


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What other networks are wrapped in."""
    prefix = ""
    for wrapper in _GENERIC[:2]:
        if all(name.startswith(prefix + wrapper) for name in tensors):
            prefix += wrapper
    rest = [name.removeprefix(prefix) for name in tensors]
    if all(name.startswith("model.") for name in rest) and any(name.removeprefix("model.").startswith(_OTHERS) for name in rest):
        prefix += "model."
    return prefix


def as_tensor(value: Any) -> Tensor:
    """A tensor without its graph; numpy arrays too."""
    return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape)) if isinstance(value, np.ndarray) else value.detach()
