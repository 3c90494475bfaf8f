"""`proscale doctor` says what runs and why."""

import pytest
import torch
from click.testing import CliRunner

from proscale.cli import main
from proscale.ops import native
from proscale.precision import cpu_bfloat16, cpu_int8


def test_doctor_reports_what_is_active_and_why() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert f"{torch.get_num_threads()} of " in result.output
    assert (native.STATUS.cpu or native.REMEDY) in result.output
    assert native.STATUS.cuda_reason in result.output
    assert "from float64" in result.output
    assert cpu_bfloat16()[1] in result.output
    assert f"by {cpu_int8()[1]}, for models" in result.output or f"refused: {cpu_int8()[1]}" in result.output


def test_doctor_advises_against_slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    result = CliRunner().invoke(main, ["doctor"])
    assert "bfloat16 on the CPU  slower than float32: the processor has neither AMX nor AVX512-BF16. Remedy: leave" in result.output
