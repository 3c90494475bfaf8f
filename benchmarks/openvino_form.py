"""transformers' Mask2Former in OpenVINO: converted for one size, with the same weights. Needs `requirements/bench.txt`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class _Outputs(nn.Module):
    """The network as a function of one tensor, with two results: a traced graph knows no names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(pixel_values=pixel_values)
        return out.class_queries_logits, out.masks_queries_logits


def openvino_form(model: nn.Module, pixel_values: Tensor, precision: str, threads: int) -> Callable[..., Any]:
    """The model's forward pass for inputs of exactly this shape.

    Args:
        precision: what is computed in: `float32` or `bfloat16`.

    Raises:
        AssertionError: in float32 its logits are not the model's.
    """
    import openvino as ov

    converted = ov.convert_model(_Outputs(model), example_input=pixel_values, input=[pixel_values.shape])
    kinds = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": kinds[precision]}
    with tempfile.TemporaryDirectory() as cache:
        ov.save_model(converted, Path(cache) / "model.xml", compress_to_fp16=False)  # a size that was compiled needs no traced graph
        compiled = ov.Core().compile_model(Path(cache) / "model.xml", "CPU", settings)
    if precision == "float32":
        want = _Outputs(model)(pixel_values)
        for got, logits in zip(compiled(pixel_values.numpy()).values(), want, strict=True):
            assert np.abs(got - logits.numpy()).max() < 1e-2 * logits.abs().max().item(), "OpenVINO computes something else"

    def run(pixel_values: Tensor, **others: Tensor) -> SimpleNamespace:
        classes, masks = compiled(pixel_values.numpy()).values()
        return SimpleNamespace(class_queries_logits=torch.from_numpy(classes), masks_queries_logits=torch.from_numpy(masks))

    return run
