"""A network in OpenVINO: converted for one size, with the same weights. Needs `requirements/bench.txt`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OUTPUTS = ("logits", "class_queries_logits", "masks_queries_logits")
"""Names of transformers' results."""


class _Outputs(nn.Module):
    """The network as a function of one tensor, with tensors as results: a traced graph knows no names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        said = self.model(pixel_values)
        if isinstance(said, Tensor):
            return (said,)
        return tuple(getattr(said, name) for name in OUTPUTS if getattr(said, name, None) is not None)


def in_openvino(model: nn.Module, pixel_values: Tensor, precision: str, threads: int) -> Callable[[Tensor], list[np.ndarray]]:
    """The model's forward pass for inputs of exactly this shape; the tensors that it returns, in order, as arrays.

    Args:
        precision: what is computed in: `float32` or `bfloat16`.

    Raises:
        AssertionError: in float32 its results are not the model's.
    """
    import openvino as ov

    with torch.inference_mode():
        converted = ov.convert_model(_Outputs(model), example_input=pixel_values, input=[pixel_values.shape])
    kinds = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": kinds[precision]}
    with tempfile.TemporaryDirectory() as cache:
        ov.save_model(converted, Path(cache) / "model.xml", compress_to_fp16=False)  # a size that was compiled needs no traced graph
        compiled = ov.Core().compile_model(Path(cache) / "model.xml", "CPU", settings)

    def run(pixel_values: Tensor) -> list[np.ndarray]:
        return list(compiled(pixel_values.numpy()).values())

    if precision == "float32":
        with torch.inference_mode():
            expected = _Outputs(model)(pixel_values)
        for got, logits in zip(run(pixel_values), expected, strict=True):
            assert np.abs(got - logits.numpy()).max() < 1e-2 * logits.abs().max().item(), "OpenVINO computes something else"
    return run


def openvino_form(model: nn.Module, pixel_values: Tensor, precision: str, threads: int) -> Callable[..., Any]:
    """`in_openvino` of transformers' Mask2Former, with its call and its results' names."""
    compiled = in_openvino(model, pixel_values, precision, threads)

    def run(pixel_values: Tensor, **others: Tensor) -> SimpleNamespace:
        classes, masks = compiled(pixel_values)
        return SimpleNamespace(class_queries_logits=torch.from_numpy(classes), masks_queries_logits=torch.from_numpy(masks))

    return run
