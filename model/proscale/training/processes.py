"""Training on several processes (torchrun): each takes its share of every batch, and gradients are added up."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from proscale.training.losses import Totals


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes, logs and measures."""
        return self.rank == 0

    def add_totals(self, parts: Sequence[Totals]) -> Totals:
        """The totals of the whole batch, over all parts of all processes."""
        total = torch.tensor([astuple(part) for part in parts], dtype=torch.float64).sum(0)
        if self.count > 1:
            total = total.float()
            dist.all_reduce(total)
        return Totals(*total.tolist())

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes; one without a gradient counts as zero."""
        if self.count == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def add(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values


def join_processes(device: torch.device) -> Processes:
    """Join the group that torchrun started; alone where nothing did."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size())
