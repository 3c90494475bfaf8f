"""`proscale doctor` says what runs and why."""

import torch
from click.testing import CliRunner

from proscale.cli import main
from proscale.ops import native


def test_says_what_is_active_and_why() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert f"{torch.get_num_threads()} of " in result.output
    assert (native.STATUS.cpu or native.REMEDY) in result.output
    assert native.STATUS.cuda_reason in result.output
    assert "from float64" in result.output
