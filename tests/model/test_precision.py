"""Which precision is taken, and what is said about it."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale import precision
from proscale.network import SegmentationNetwork
from proscale.precision import cpu_bfloat16, default_precision
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert default_precision(torch.device("cpu")) == "float32"
    predictor = Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES)
    assert predictor.precision == "float32"
    assert {p.dtype for p in predictor.network.parameters()} == {torch.float32}


def test_bfloat16_finds_nearly_the_same_segments(small_checkpoint: Path, picture: np.ndarray) -> None:
    options = [SegmentationOptions(("semantic",))]
    exact, rounded = (Predictor.load(small_checkpoint, precision=p) for p in ("float32", "bfloat16"))
    assert {p.dtype for p in rounded.network.parameters()} == {torch.bfloat16}
    (ours,), (theirs,) = rounded.segment([picture], options), exact.segment([picture], options)
    areas = [{s.label: s.area for s in prediction.results["semantic"].segments} for prediction in (ours, theirs)]
    pixels = picture.shape[0] * picture.shape[1]
    assert sum(abs(areas[0].get(name, 0) - areas[1].get(name, 0)) for name in areas[0] | areas[1]) < 0.1 * pixels


def test_a_processor_without_bfloat16_is_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert cpu_bfloat16() == (False, "the processor has neither AMX nor AVX512-BF16")
    with caplog.at_level(logging.WARNING):
        Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES, precision="bfloat16")
    assert "bfloat16 is slower than float32 on this machine" in caplog.text
    assert "--precision float32" in caplog.text
    caplog.clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    precision.warn_if_slow(torch.device("cpu"), "bfloat16")
    precision.warn_if_slow(torch.device("cpu"), "float32")
    assert not caplog.text
