"""Weights into a network whose names and shapes all fit, or a list of those that do not."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from proscale.errors import CheckpointError

SHOWN = 12


def load_strictly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `network` as float32; every name and shape must fit, both ways.

    Raises:
        CheckpointError: lists missing names, superfluous names and shapes that differ.
    """
    check_strictly(network, state)
    own = network.state_dict()
    network.load_state_dict({name: state[name].to(own[name].dtype) for name in own})


def check_strictly(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, with lists, unless `state` has exactly the names and shapes of `network`, which may be on `meta`."""
    own = network.state_dict()
    problems = []
    if missing := own.keys() - state.keys():
        problems.append(f"missing: {listed(missing)}")
    if superfluous := state.keys() - own.keys():
        problems.append(f"superfluous: {listed(superfluous)}")
    differing = [
        f"{name} is {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if differing:
        problems.append(f"of another shape: {listed(differing)}")
    if problems:
        raise CheckpointError("the weights do not fit the configuration; " + "; ".join(problems))


def listed(names: Iterable[str]) -> str:
    """Names for a message: sorted, the first dozen, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + more
