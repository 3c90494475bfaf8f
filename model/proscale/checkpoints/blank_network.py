"""A network without weights: names and shapes to check against, or memory to load into."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from proscale.any_network import Network, build_network
from proscale.config import NetworkConfig

_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.copy_, torch.nn.init.trunc_normal_}


class _NothingFilled(TorchFunctionMode):
    """Leaves out what initialisation computes.

    Where there is no memory there is nothing to fill; and the first normal number or range made on `meta` has torch import its tables
    of decompositions, 800 modules, which takes as long as importing torch itself.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _FILLS:
            return args[0]
        if func is torch.randn:
            func = torch.empty
        options = dict(kwargs or {})
        if func is torch.arange:
            options.setdefault("device", "cpu")
        return func(*args, **options)


def blank_network(config: NetworkConfig) -> Network:
    """The network of a configuration on the `meta` device; `to_empty(device=...)` gives it memory."""
    with torch.device("meta"), _NothingFilled():
        return build_network(config)
