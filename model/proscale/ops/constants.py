"""Tensors that depend on sizes alone, computed once."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def constant_tensor(maxsize: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Cache a function of hashable arguments that makes a tensor on the CPU.

    The tensor is an ordinary one even when the first call happens in inference mode: training may be the next to use it.
    It is shared between callers, who must not write to it.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @lru_cache(maxsize=maxsize)
        @wraps(function)
        def cached(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                return function(*args, **kwargs)

        @wraps(function)
        def constant(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            return cached(*args, **kwargs)  # type: ignore[arg-type]  # lru_cache's type forgets the parameters

        # torch.compile would look through the cache and trace how the tensor is made; compile with dynamic=False, one graph per size.
        torch.compiler.assume_constant_result(constant)
        return constant

    return decorate
