"""An exponential moving average of a network's weights: what is evaluated and shipped."""

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Keeps a copy of a network that follows it slowly; integers (counters) are copied as they are."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow `network` after step number `step` (from 0); young averages forget quickly."""
        decay = min(self.decay, (step + 1) / (step + 10))
        own, new = self.network.state_dict(), network.state_dict()
        floating = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floating], [new[name] for name in floating], 1 - decay)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Of the averaged network."""
        return self.network.state_dict()
