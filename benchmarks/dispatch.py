"""Is every path that is chosen by processor worth choosing? `make bench-check`, or `.venv/bin/python benchmarks/dispatch.py`.

The compiled kernels have builds for several instruction sets. Each build that this processor runs is measured in a process of its own; the
processes take turns. A build must not be slower than the build below it, nor the operator than the classic loop of `peers/classic.cpp`,
which is compiled for everything the processor has, nor any build of attention and of the making of bytes than torch. The way that linear
layers and convolutions take must not be slower than oneDNN's fused ones, packed or not, nor than torch's public functions, and bfloat16
must not be slower than float32 where `proscale doctor` calls it fast. If one is, it is named and the exit status is 1.

One thread computes, and its processor time is taken: neighbours on the machine hardly count. Times are the least of interleaved rounds.
Rounds differ by some percent, so only what is slower by more than --tolerance counts, and is measured again before it does.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from op_peers import SHAPES, Form, classic_form, make_inputs
from processor import instruction_sets, processor
from torch import Tensor
from tqdm import tqdm

from proscale.layers.convolution import convolution, convolution_fused, convolution_plain
from proscale.layers.linear import Activation, linear, linear_fused, linear_plain, packed, packs
from proscale.ops.attention import attention, attention_reference
from proscale.ops.ms_deform_attn import ms_deform_attn
from proscale.ops.quantise import norm_quantise, norm_quantise_reference, quantise, quantise_reference
from proscale.ops.window_attention import CHANNELS, window_attention, window_attention_reference
from proscale.precision import cpu_bfloat16

Job = Callable[[], object]

OPERATOR = ((1, "float32"), (2, "float32"), (3, "float32"), (3, "float16"), (3, "bfloat16"))
"""Levels and dtypes of the operator's rows."""
LINEAR: dict[str, tuple[int, int, int, Activation]] = {
    "96 -> 384, GELU": (8192, 96, 384, "gelu"),
    "256 -> 1024, ReLU": (8192, 256, 1024, "relu"),
    "768 -> 768": (1024, 768, 768, "none"),
    "768 -> 3072, GELU": (1605, 768, 3072, "gelu"),
}
"""Tokens, channels in and out, activation: Swin's first stage, the encoder's, Swin's last, and EoMT-B's."""
ATTENTION = {
    "1605 tokens": (6, 1605, 1605, 64, False),
    "16384 queries, 256 keys": (1, 16384, 256, 32, False),
    "100 queries, 15200 keys, masked": (8, 100, 15200, 32, True),
    "100 queries": (8, 100, 100, 32, False),
}
"""Heads, queries, keys, channels of a head, whether some keys are masked: EoMT-S's, SegFormer's first stage, the transformer decoder's."""


def operator_jobs(contender: str, form: Form) -> dict[tuple[str, str], Job]:
    """Forward, and forward with backward, at the shapes of `op.py`; (row, contender) -> job."""
    jobs: dict[tuple[str, str], Job] = {}
    for levels, dtype in OPERATOR:
        shapes, inputs = SHAPES[levels], make_inputs(levels, 1, getattr(torch, dtype), "cpu")
        name = f"{inputs[0].shape[1]}/{levels} {dtype}"
        jobs[f"operator {name}", contender] = partial(forward, form, inputs, shapes)
        jobs[f"operator {name}, with gradients", contender] = partial(with_gradients, form, inputs, shapes)
    return jobs


def forward(form: Form, inputs: tuple[Tensor, ...], shapes: list[int]) -> None:
    with torch.inference_mode():
        form(inputs[0], inputs[1], inputs[2], shapes)


def with_gradients(form: Form, inputs: tuple[Tensor, ...], shapes: list[int]) -> None:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = form(leaves[0], leaves[1], leaves[2], shapes)
    torch.autograd.grad(out, leaves, torch.ones_like(out))


def mask_jobs(contender: str) -> dict[tuple[str, str], Job]:
    """From logits to runs at 800x1216, and twice as large, shaped like a trained network's."""
    from postprocess import trained_like

    jobs: dict[tuple[str, str], Job] = {}
    class_logits, masks = trained_like(200, 304)
    probabilities = class_logits.softmax(-1)[:, :-1].contiguous()
    scores, op = probabilities[:30].max(-1).values, torch.ops.proscale
    for name, output in (("800x1216", [800, 1216]), ("1600x2432", [1600, 2432])):
        sizes = [800, 1216, 800, 1216, *output]
        jobs[f"panoptic masks {name}", contender] = partial(op.panoptic_runs, masks[:30], scores, sizes, 0.0)
        jobs[f"instance masks {name}", contender] = partial(op.instance_runs, masks[:30], sizes, 0.0)
        jobs[f"semantic masks {name}", contender] = partial(op.semantic_runs, masks, probabilities, sizes, False)
    jobs["semantic masks 800x1216, scores first", contender] = partial(
        op.semantic_runs, masks, probabilities, [800, 1216, 800, 1200, 427, 640], True
    )
    return jobs


def window_jobs(contender: str, form: Callable[..., Tensor]) -> dict[tuple[str, str], Job]:
    """Swin's windows of 7 and 12 a side, in its first stage's three heads."""
    jobs: dict[tuple[str, str], Job] = {}
    for windows, side in ((320, 7), (108, 12)):
        for dtype in ("float32", "bfloat16") if cpu_bfloat16()[0] else ("float32",):
            qkv = torch.randn(windows, side * side, 9 * CHANNELS, dtype=getattr(torch, dtype))
            bias = torch.randn(3, side * side, side * side, dtype=qkv.dtype)
            jobs[f"windows {side}x{side} {dtype}", contender] = partial(form, qkv, [(windows, bias)])
    return jobs


def attention_jobs(contender: str, form: Callable[..., Tensor]) -> dict[tuple[str, str], Job]:
    """Attention of many tokens."""
    jobs: dict[tuple[str, str], Job] = {}
    for name, (heads, queries, keys, channels, masked) in ATTENTION.items():
        for dtype in ("float32", "bfloat16") if cpu_bfloat16()[0] else ("float32",):
            inputs = [torch.randn(1, heads, count, channels, dtype=getattr(torch, dtype)) for count in (queries, keys, keys)]
            allowed = torch.rand(1, queries, keys) > 0.5 if masked else None
            jobs[f"attention {name} {dtype}", contender] = partial(form, *inputs, allowed)
    return jobs


def byte_jobs(contender: str, plainly: Callable[..., Tensor], normed: Callable[..., Tensor]) -> dict[tuple[str, str], Job]:
    """Tokens of Swin's first stage as bytes, and layer normalisation before it."""
    jobs: dict[tuple[str, str], Job] = {}
    weight, bias = torch.rand(96), torch.randn(96)
    for dtype in (torch.float32, torch.bfloat16):
        x, name = torch.randn(15360, 96).to(dtype), str(dtype).removeprefix("torch.")
        jobs[f"to bytes {name}", contender] = partial(plainly, x, 0.02, 128)
        jobs[f"normed to bytes {name}", contender] = partial(normed, x, weight, bias, 1e-5, 0.02, 128)
    return jobs


def linear_jobs() -> dict[tuple[str, str], Job]:
    """What a network takes, and what it is taken from: oneDNN's fused layers, packed or not, and torch's public functions."""
    jobs: dict[tuple[str, str], Job] = {}
    has_fused, has_packed = (hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    for name, (tokens, channels_in, channels_out, activation) in LINEAR.items():
        for dtype in (torch.float32, torch.bfloat16) if cpu_bfloat16()[0] else (torch.float32,):
            x, weight, bias = (
                torch.randn(shape).to(dtype) for shape in ((tokens, channels_in), (channels_out, channels_in), (channels_out,))
            )
            row = f"linear {name} {str(dtype).removeprefix('torch.')}"
            jobs[row, "chosen"] = partial(linear, x, packed(weight) if packs(dtype) else weight, bias, activation)
            jobs[row, "torch"] = partial(linear_plain, x, weight, bias, activation)
            if has_fused:
                jobs[row, "oneDNN"] = partial(linear_fused, x, weight, bias, activation)
            if has_fused and has_packed:
                jobs[row, "packed"] = partial(linear_fused, x, packed(weight), bias, activation)
    return jobs


def convolution_jobs() -> dict[tuple[str, str], Job]:
    """As `linear_jobs`, of a ResNet's convolutions with their ReLU at 800x1088: 1x1 in res2, and 3x3 in res4."""
    jobs: dict[tuple[str, str], Job] = {}
    for channels_in, channels_out, kernel, size in ((64, 256, 1, (200, 272)), (256, 256, 3, (50, 68))):
        for dtype in (torch.float32, torch.bfloat16) if cpu_bfloat16()[0] else (torch.float32,):
            x = torch.randn(1, channels_in, *size).to(dtype, memory_format=torch.channels_last)
            weight = torch.randn(channels_out, channels_in, kernel, kernel).to(dtype, memory_format=torch.channels_last)
            given = x, weight, torch.randn(channels_out).to(dtype), [1, 1], [kernel // 2] * 2, True
            row = f"convolution {channels_in} -> {channels_out}, {kernel}x{kernel} {str(dtype).removeprefix('torch.')}"
            jobs[row, "chosen"], jobs[row, "torch"] = partial(convolution, *given), partial(convolution_plain, *given)
            if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
                jobs[row, "oneDNN"] = partial(convolution_fused, *given)
    return jobs


def network_jobs() -> dict[tuple[str, str], Job]:
    """The embedded model's network in both precisions, where bfloat16 is called fast."""
    if not cpu_bfloat16()[0]:
        return {}
    from proscale.predictor import Predictor

    jobs: dict[tuple[str, str], Job] = {}
    for precision in ("float32", "bfloat16"):
        network = Predictor.load(precision=precision).network
        images = torch.randn(1, 3, 320, 448, dtype=getattr(torch, precision))
        jobs["embedded model 320x448", precision] = partial(network.predict, images)
    return jobs


def worker(widest: bool) -> None:
    """Run the jobs that are asked for by number on standard input; first say which there are."""
    torch.set_num_threads(1)
    kernels = os.environ["MS_DEFORM_ATTN_CPU"]
    jobs = operator_jobs(kernels, ms_deform_attn) | mask_jobs(kernels)
    jobs |= window_jobs(kernels, window_attention) | attention_jobs(kernels, attention) | byte_jobs(kernels, quantise, norm_quantise)
    if widest:
        classic = classic_form("cpu")
        if classic is not None:
            ctypes.CDLL("libgomp.so.1").omp_set_num_threads(1)
            jobs |= operator_jobs("classic", classic)
        jobs |= window_jobs("torch", window_attention_reference) | byte_jobs("torch", quantise_reference, norm_quantise_reference)
        jobs |= attention_jobs("torch", attention_reference) | linear_jobs() | convolution_jobs() | network_jobs()
    print(json.dumps(list(jobs)), flush=True)
    numbered = list(jobs.values())
    for line in sys.stdin:
        job = numbered[int(line)]
        inference = "gradients" not in list(jobs)[int(line)][0]
        with torch.inference_mode(inference):
            begin = time.thread_time()
            job()
            print((time.thread_time() - begin) * 1e3, flush=True)


@dataclass
class Worker:
    """A process that runs jobs with one build of the kernels."""

    process: "subprocess.Popen[str]"
    jobs: list[tuple[str, str]]

    @classmethod
    @contextmanager
    def start(cls, kernels: str, widest: bool) -> Iterator["Worker"]:
        command = [sys.executable, __file__, "--worker", *(["--widest"] if widest else [])]
        environment = os.environ | {"MS_DEFORM_ATTN_CPU": kernels, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield cls(process, [(row, contender) for row, contender in json.loads(process.stdout.readline())])
            assert process.stdin is not None
            process.stdin.close()

    def run(self, job: tuple[str, str]) -> float:
        """Milliseconds of processor time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.jobs.index(job)}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Measurement:
    """Times of all rows, from one worker per build."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self.ms: dict[str, dict[str, float]] = {}
        """Row -> contender -> milliseconds, the least so far."""

    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for worker in self.workers for row, _ in worker.jobs))

    def measure(self, row: str, rounds: int) -> None:
        """Interleaved rounds of one row, after one to warm up."""
        best = self.ms.setdefault(row, {})
        for turn in range(rounds + 1):
            for worker in self.workers:
                for job in worker.jobs:
                    if job[0] == row:
                        ms = round(worker.run(job), 3)
                        if turn:
                            best[job[1]] = min(ms, best.get(job[1], ms))
        print(f"{row}: " + ", ".join(f"{name} {ms:.2f}" for name, ms in best.items()), flush=True)


def measure(rounds: int, tolerance: float) -> dict[str, dict[str, float]]:
    """Row -> contender -> milliseconds. A row in which a path is slower than it may be is measured once more, for longer."""
    with ExitStack() as stack:
        sets = instruction_sets()
        found = Measurement([stack.enter_context(Worker.start(kernels, kernels == sets[-1])) for kernels in sets])
        for row in tqdm(found.rows(), unit="row", disable=None):
            found.measure(row, rounds)
            if not all(verdict["holds"] for verdict in verdicts({row: found.ms[row]}, tolerance)):
                found.measure(row, 3 * rounds)
        return found.ms


def rivals(row: str, contenders: list[str]) -> list[tuple[str, str]]:
    """(path, what it must not be slower than) of one row."""
    sets = [name for name in instruction_sets() if name in contenders]
    pairs = [(wider, narrower) for narrower, wider in pairwise(sets)]
    pairs += [(name, rival) for rival in ("classic", "torch") if rival in contenders for name in sets]
    pairs += [
        pair
        for pair in (("chosen", "oneDNN"), ("chosen", "packed"), ("chosen", "torch"), ("bfloat16", "float32"))
        if set(pair) <= set(contenders)
    ]
    return pairs


def verdicts(times: dict[str, dict[str, float]], tolerance: float) -> list[dict[str, object]]:
    """How many times as fast every path is as its rival, and whether that will do."""
    found: list[dict[str, object]] = []
    for row, of_row in times.items():
        for path, rival in rivals(row, list(of_row)):
            ratio = of_row[rival] / of_row[path]
            found.append({"row": row, "path": path, "against": rival, "times_as_fast": round(ratio, 2), "holds": ratio >= 1 - tolerance})
    return found


def main() -> None:
    """Measure, judge, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tolerance", type=float, default=0.1, help="share by which a path may be slower: what rounds differ by")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--widest", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.widest)
        return
    if not instruction_sets():
        sys.exit("no compiled kernels to measure: `proscale doctor` says why")
    times = measure(args.rounds, args.tolerance)
    found = verdicts(times, args.tolerance)
    if args.out:
        about = {"date": time.strftime("%Y-%m-%d"), "hardware": processor(), "torch": torch.__version__, "rounds": args.rounds}
        about |= {"what": "milliseconds of processor time, one thread, the least of interleaved rounds"}
        args.out.write_text(json.dumps(about | {"ms": times, "verdicts": found}, indent=1) + "\n")
    failed = [f for f in found if not f["holds"]]
    for f in failed:
        print(f"SLOWER: {f['row']}: {f['path']} is {f['times_as_fast']} times as fast as {f['against']}")
    print(f"{len(found) - len(failed)} of {len(found)} paths hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
