"""Cached tensors."""

import torch
from torch import Tensor

from proscale.ops.constants import collected_constants, constant_tensor


def test_made_once_and_usable_in_training_after_inference() -> None:
    calls = []

    @constant_tensor(maxsize=4)
    def ramp(length: int) -> Tensor:
        calls.append(length)
        return torch.arange(float(length))

    with torch.inference_mode():
        first = ramp(3)
    assert ramp(3) is first
    assert calls == [3]
    weight = torch.ones(3, requires_grad=True)
    (weight * first).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 1, 2]


def test_constants_are_collected_whether_new_or_cached() -> None:
    @constant_tensor(maxsize=1)
    def number(value: int) -> torch.Tensor:
        return torch.tensor([value])

    first = number(1)
    with collected_constants() as outer:
        again = number(1)
        with collected_constants() as inner:
            second = number(2)
    number(3)
    assert [id(tensor) for tensor in outer] == [id(again), id(second)]
    assert [id(tensor) for tensor in inner] == [id(second)]
    assert again is first
