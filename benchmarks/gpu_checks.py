"""All that needs a GPU, in one call, without network: build for this GPU, `proscale doctor`, tests, benchmarks.

`python benchmarks/gpu_checks.py [OUT] [STEP ...]` in an environment that holds torch (2.10 or later, for CUDA), nvcc, g++, setuptools,
numpy, click, pillow and pytest; transformers and pycocotools where they are to be compared with. Steps, by default all, in this order:
build, active (the compiled kernels really run), doctor, tests, op-1, op-2, op-3 (levels), networks (EoMT, SegFormer, SETR), and
model-HEIGHTxWIDTH-BATCH for two sizes and two batches. Builds beside the sources. Writes what the steps say to OUT/gpu_checks.txt, and
their measurements to OUT/op-cuda.json, OUT/networks-cuda.json and OUT/model-cuda-HEIGHTxWIDTH-BATCH.json (OUT: benchmarks/results).
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
SIZES, BATCHES = ("800x1216", "640x640"), (1, 8)


def steps(out: Path) -> dict[str, list[str]]:
    """Name -> command, run from the root of the repository."""
    python = sys.executable
    # Modules that need more than the network cannot be imported everywhere: look for the mark where it stands.
    tests = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    found = {
        "build": [python, "setup.py", "build_ext", "--inplace"],
        "active": [python, "-c", "from proscale.ops.native import STATUS; assert STATUS.cuda, STATUS.cuda_reason; print(STATUS)"],
        "doctor": [python, "-c", "from proscale.cli import main; main()", "doctor"],
        "tests": [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *tests],
    }
    for levels in "123":
        options = ["--device", "cuda", "--levels", levels, "--slow-batch", "8", "--out", str(out / "op-cuda.json")]
        found[f"op-{levels}"] = [python, "benchmarks/op.py", *options]
    if find_spec("transformers"):
        found["networks"] = [python, "benchmarks/networks.py", "--device", "cuda", "--out", str(out / "networks-cuda.json")]
    peers = "transformers,eomt" if find_spec("transformers") and find_spec("pycocotools") else ""
    for batch in BATCHES:
        for size in SIZES:
            report = str(out / f"model-cuda-{size}-{batch}.json")
            options = ["--device", "cuda", "--sizes", size, "--batch", str(batch), "--against", peers, "--out", report]
            found[f"model-{size}-{batch}"] = [python, "benchmarks/model.py", *options]
    return found


def main() -> int:
    """Run the steps in order; a failing one does not stop those after it. Returns the number that failed."""
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here; everything that needs none is in `make test`")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "benchmarks/results").absolute()
    out.mkdir(parents=True, exist_ok=True)
    major, minor = torch.cuda.get_device_capability()
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("model", "service", "."))
    environment = os.environ | {
        "MS_DEFORM_ATTN_CUDA": "1",
        "MS_DEFORM_ATTN_ARCHS": f"{major}{minor}",
        "PYTHONPATH": os.pathsep.join([paths, os.environ.get("PYTHONPATH", "")]),
    }
    commands = steps(out)
    wanted = sys.argv[2:] or list(commands)
    if unknown := set(wanted) - set(commands):
        sys.exit(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(commands)}")
    if "build" in wanted:
        for library in (ROOT / "model/proscale/ops").glob("_native*"):
            library.unlink()  # a failed build must not leave an older one to be tested
    failed = 0
    with (out / "gpu_checks.txt").open("a" if sys.argv[2:] else "w") as log:
        for name in wanted:
            print(f"== {name}", flush=True)
            run = subprocess.run(commands[name], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            failed += run.returncode != 0
            text = f"== {name}: {'failed' if run.returncode else 'passed'}\n{run.stdout}\n"
            print(text, flush=True)
            log.write(text)
            log.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
