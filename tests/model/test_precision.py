"""Which precision is taken, and what is said about it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG

from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork
from proscale.precision import cpu_bfloat16, default_precision, refuse_if_slow
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert default_precision(torch.device("cpu")) == "float32"
    predictor = Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES)
    assert predictor.precision == "float32"
    assert {p.dtype for p in predictor.network.parameters()} == {torch.float32}


def test_bfloat16_finds_nearly_the_same_segments(small_checkpoint: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proscale.predictor.refuse_if_slow", lambda device, precision: None)  # emulated, a small network is fast enough
    options = [SegmentationOptions(("semantic",))]
    exact, rounded = (Predictor.load(small_checkpoint, precision=p) for p in ("float32", "bfloat16"))
    assert {p.dtype for p in rounded.network.parameters()} == {torch.bfloat16}
    (ours,), (theirs,) = rounded.segment([picture], options), exact.segment([picture], options)
    areas = [{s.label: s.area for s in prediction.results["semantic"].segments} for prediction in (ours, theirs)]
    pixels = picture.shape[0] * picture.shape[1]
    assert sum(abs(areas[0].get(name, 0) - areas[1].get(name, 0)) for name in areas[0] | areas[1]) < 0.1 * pixels


def test_a_processor_without_bfloat16_refuses_it_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert cpu_bfloat16() == (False, "the processor has neither AMX nor AVX512-BF16")
    with pytest.raises(CheckpointError, match=r"bfloat16 is many times slower than float32 on this machine.*--precision float32"):
        Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES, precision="bfloat16")
    with pytest.raises(CheckpointError, match="neither AMX nor AVX512-BF16"):
        Predictor.load(precision="bfloat16")
    refuse_if_slow(torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("limit", "fast"),
    [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("AVX512_CORE_AMX", True), ("ALL", True), ("", True)],
)
def test_onednns_limit_of_instructions_is_respected(limit: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert cpu_bfloat16()[0] is fast


@pytest.mark.slow
def test_a_server_does_not_start_with_emulated_bfloat16() -> None:
    """This machine made to behave like one with AVX2 alone, whatever it has."""
    limits = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "PROSCALE_PRECISION": "bfloat16"}
    command = [sys.executable, "-c", "from proscale.cli import main; main()", "serve", "--port", "0"]
    run = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "PROSCALE_PRECISION=float32" in run.stderr
    assert "Traceback" not in run.stderr
