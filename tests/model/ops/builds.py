"""Runs a check with each build of the compiled kernels, which a process chooses once."""

import os
import subprocess
import sys

import pytest

BUILDS = ["plain", "avx2", "avx512"]


def check_build(build: str, check: str) -> None:
    """Run a program that asserts, and prints `native.STATUS.cpu` in the end; skip where the processor does not run the build."""
    environment = os.environ | {"MS_DEFORM_ATTN_CPU": build}
    run = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True)
    if run.stdout.strip() != build:
        pytest.skip(f"this processor runs {run.stdout.strip()}")
