"""Tensors that depend on sizes alone, computed once."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

_collectors: list[list[Tensor]] = []


@contextmanager
def collected_constants() -> Iterator[list[Tensor]]:
    """The constants that are handed out inside, by any thread.

    Who remembers addresses, as a CUDA graph does, must keep them: the caches let go of what is old.
    """
    collected: list[Tensor] = []
    _collectors.append(collected)
    try:
        yield collected
    finally:
        _collectors[:] = [other for other in _collectors if other is not collected]


def constant_tensor(maxsize: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Cache a function of hashable positional arguments that makes a tensor on the CPU; the oldest of more than `maxsize` goes.

    The tensor is an ordinary one even when the first call happens in inference mode: training may be the next to use it.
    It is shared between callers and threads, who must not write to it. torch.compile finds the tensors of a size that has been run before,
    and breaks the graph (or fails, with fullgraph) at one that has not.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        # A plain dictionary: torch.compile looks through functools' caches and would trace how the tensor is made.
        made: dict[Hashable, Tensor] = {}

        def make(key: tuple[Hashable, ...]) -> Tensor:
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                tensor = function(*key)  # type: ignore[arg-type, call-arg]
            while len(made) >= maxsize:
                made.pop(next(iter(made)), None)
            return made.setdefault(key, tensor)

        # What torch.compiler.disable does, without loading the compiler: that would add a second to every start.
        make._torchdynamo_disable = True  # type: ignore[attr-defined]

        @wraps(function)
        def constant(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if kwargs:
                raise TypeError(f"{function.__name__} takes positional arguments alone, which its cache is keyed by")
            tensor = made.get(args)
            if tensor is None:
                tensor = make(args)
            for collected in _collectors:
                collected.append(tensor)
            return tensor

        return constant

    return decorate
