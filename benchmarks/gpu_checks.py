"""All that needs a GPU, in one call, without network: build for this GPU, `proscale doctor`, tests, benchmark.

`python benchmarks/gpu_checks.py [OUT]` in an environment that holds torch (2.10 or later, for CUDA), nvcc, g++, setuptools, numpy, click
and pytest. Builds beside the sources. Writes OUT/gpu_checks.txt and OUT/op-cuda.json (OUT: benchmarks/results).
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the steps in order; a failing one does not stop those after it. Returns the number that failed."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "benchmarks/results").absolute()
    out.mkdir(parents=True, exist_ok=True)
    major, minor = torch.cuda.get_device_capability()
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("model", "service", "."))
    environment = os.environ | {
        "MS_DEFORM_ATTN_CUDA": "1",
        "MS_DEFORM_ATTN_ARCHS": f"{major}{minor}",
        "PYTHONPATH": os.pathsep.join([paths, os.environ.get("PYTHONPATH", "")]),
    }
    python = sys.executable
    benchmark = [python, "benchmarks/op.py", "--device", "cuda", "--slow-batch", "8", "--out", str(out / "op-cuda.json")]
    steps = {
        "build": [python, "setup.py", "build_ext", "--inplace"],
        "doctor": [python, "-c", "from proscale.cli import main; main()", "doctor"],
        "tests": [python, "-m", "pytest", "-q", "tests/model/ops/test_cuda.py", "-p", "no:cacheprovider"],
        "benchmark": benchmark,
    }
    failed = 0
    with (out / "gpu_checks.txt").open("w") as log:
        for name, command in steps.items():
            print(f"== {name}", flush=True)
            run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            failed += run.returncode != 0
            text = f"== {name}: {'failed' if run.returncode else 'passed'}\n{run.stdout}\n"
            print(text, flush=True)
            log.write(text)
            log.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
