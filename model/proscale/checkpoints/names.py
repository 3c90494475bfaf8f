"""Rename tables as data: templates of names with numbered parts, matched strictly."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from proscale.errors import CheckpointError

SHOWN = 12


def rename(state: Mapping[str, Tensor], table: Sequence[tuple[str, str]], dropped: Sequence[str] = ()) -> dict[str, Tensor]:
    """Rename every tensor by the first template that matches its whole name.

    Args:
        state: name -> tensor.
        table: (source, target) templates; `{i}`, `{j}` stand for numbers and are carried over, `{leaf}` for one last part.
        dropped: regular expressions of names that carry nothing and are left out.

    Raises:
        CheckpointError: names that no template knows; they are listed.
    """
    patterns = [(re.compile(_pattern(source)), target) for source, target in table]
    renamed, unknown = {}, []
    for name, tensor in state.items():
        if any(re.fullmatch(pattern, name) for pattern in dropped):
            continue
        for pattern, target in patterns:
            if match := pattern.fullmatch(name):
                renamed[target.format(**match.groupdict())] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"{len(unknown)} names in the checkpoint are not known: {_listed(unknown)}")
    return renamed


def load_strictly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `network` as float32; every name and shape must fit, both ways.

    Raises:
        CheckpointError: lists missing names, superfluous names and shapes that differ.
    """
    own = network.state_dict()
    problems = []
    if missing := own.keys() - state.keys():
        problems.append(f"missing: {_listed(missing)}")
    if superfluous := state.keys() - own.keys():
        problems.append(f"superfluous: {_listed(superfluous)}")
    differing = [
        f"{name} is {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if differing:
        problems.append(f"of another shape: {_listed(differing)}")
    if problems:
        raise CheckpointError("the weights do not fit the configuration; " + "; ".join(problems))
    network.load_state_dict({name: state[name].to(own[name].dtype) for name in own})


def _pattern(template: str) -> str:
    pattern = re.escape(template)
    pattern = re.sub(r"\\\{([ijk])\\\}", r"(?P<\1>\\d+)", pattern)
    return re.sub(r"\\\{leaf\\\}", r"(?P<leaf>\\w+)", pattern)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + more
