"""Building the operator while the package is installed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_a_missing_compiler_is_noted_and_the_installation_succeeds(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path / 'work'}"]
    environment = os.environ | {"CXX": "no-such-compiler", "MS_DEFORM_ATTN_CUDA": "0"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    built = tmp_path / "proscale/ops"
    assert (built / "_native.txt").read_text() == "no compiler no-such-compiler at installation\n"
    assert not (built / "_native.so").exists()
