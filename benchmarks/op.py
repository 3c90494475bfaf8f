"""The deformable attention operator against what else computes it, in one run: `.venv/bin/python benchmarks/op.py`.

Every row counts the same work, from value, offsets and logits to the weighted sums: softmax and sampling locations included. The peers:
`grid_sample`, the reference form in pure torch; the same under torch.compile; `classic`, the arithmetic that Deformable DETR made common
(softmax and locations by torch, then a gather that is given float32 locations in 0..1), written anew from the paper for CPU and GPU;
transformers' function where it is installed. `module` is the attention with its projections, ours and transformers'; `layer` a whole
encoder layer, with our operator and with the reference form. Times are the least of interleaved rounds, because other work on the machine
only adds to them. On the CPU every build of the kernels that the processor runs is measured (--sets), each in a process of its own; peers
always use all that the processor has. With --out, several commands write into one file: a row measured again replaces the older one.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from op_peers import CHANNELS, HEADS, POINTS, SHAPES, Form, classic_form, make_inputs, transformers_form, transformers_module
from processor import instruction_sets, processor
from torch import Tensor

from proscale.layers import deformable_attention
from proscale.layers.deformable_attention import DeformableAttention
from proscale.ops import native
from proscale.ops.ms_deform_attn import ms_deform_attn
from proscale.ops.reference import ms_deform_attn_reference
from proscale.pixel_decoder.encoder_layer import EncoderLayer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PEAKS = {"H100": (3.35e12, 67e12), "H200": (4.8e12, 67e12), "A100": (2.0e12, 19.5e12)}
"""Memory bytes/s and float32 FLOP/s by the maker's data sheets."""

PEERS = ("grid_sample", "grid_sample compiled", "transformers", "classic")


def module_forward(module: DeformableAttention, tokens: Tensor, shapes: list[int]) -> None:
    """The same with ours."""
    with torch.inference_mode():
        module(tokens, tokens, shapes)


def forward(form: Form, inputs: tuple[Tensor, Tensor, Tensor], shapes: list[int]) -> None:
    """One pass without a gradient."""
    with torch.inference_mode():
        form(*inputs, shapes)


def forward_backward(form: Form, inputs: tuple[Tensor, Tensor, Tensor], shapes: list[int]) -> None:
    """One pass there and back."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = form(leaves[0], leaves[1], leaves[2], shapes)
    torch.autograd.grad(out, leaves, torch.ones_like(out))


def layer_forward(form: Form, layer: EncoderLayer, tokens: Tensor, shapes: list[int]) -> None:
    """A whole encoder layer around one form of the operator."""
    deformable_attention.ms_deform_attn = form  # type: ignore[assignment, attr-defined]
    with torch.inference_mode():
        layer(tokens, tokens[0], shapes)
    deformable_attention.ms_deform_attn = ms_deform_attn  # type: ignore[attr-defined]


def seconds(job: Callable[[], None], device: str) -> float:
    """One run, device work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    repeats = 20 if device == "cuda" else 1
    for _ in range(repeats):
        job()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / repeats


def fastest(jobs: dict[str, Callable[[], None]], device: str, rounds: int) -> dict[str, float]:
    """Milliseconds per job, the least of interleaved rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job, device))
    return {name: min(values) * 1e3 for name, values in times.items()}


def copy(target: Tensor, source: Tensor) -> None:
    """Move memory."""
    target.copy_(source)


def multiply(matrix: Tensor) -> None:
    """A square matrix product."""
    torch.mm(matrix, matrix)


def cpu_peaks() -> tuple[float, float]:
    """Bytes/s of a large copy and FLOP/s of a large matrix product on the threads in use: this machine's own roofline."""
    source = torch.ones(64 << 20)
    target = torch.empty_like(source)
    matrix = torch.randn(1024, 1024)
    moving = min(seconds(partial(copy, target, source), "cpu") for _ in range(3))
    product = min(seconds(partial(multiply, matrix), "cpu") for _ in range(5))
    return 2 * source.nbytes / moving, 2 * 1024**3 / product


def floor_ms(value: Tensor, offsets: Tensor, logits: Tensor, peaks: tuple[float, float]) -> float:
    """The roofline: inputs read and outputs written once, or 4 multiply-adds per channel and sample, whichever takes longer."""
    moved = value.element_size() * (2 * value.numel() + offsets.numel() + logits.numel())
    return max(moved / peaks[0], 2 * 4 * CHANNELS * logits.numel() / peaks[1]) * 1e3


def peaks_of(device: str) -> tuple[float, float]:
    """The roofline of the device in use."""
    if device == "cpu":
        return cpu_peaks()
    name = torch.cuda.get_device_name()
    return next((peaks for key, peaks in PEAKS.items() if key in name), (float("nan"), float("nan")))


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    """One record per threads, levels, batch, dtype and direction; every record is printed when it is there."""
    records: list[dict[str, object]] = []
    classic, theirs = (None if args.no_classic else classic_form(args.device)), transformers_form()
    for threads in args.threads if args.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        if args.device == "cpu":
            ctypes.CDLL("libgomp.so.1").omp_set_num_threads(threads)
        peaks = peaks_of(args.device)
        for levels in args.levels:
            for batch in args.batch:
                for name in args.dtypes:
                    shapes, inputs = SHAPES[levels], make_inputs(levels, batch, DTYPES[name], args.device)
                    forms: dict[str, Form] = {"ours": ms_deform_attn}
                    if batch <= args.slow_batch:
                        forms["grid_sample"] = ms_deform_attn_reference
                        if args.compile:
                            forms["grid_sample compiled"] = torch.compile(ms_deform_attn_reference, dynamic=False)
                        if theirs is not None:
                            forms["transformers"] = theirs
                    jobs: dict[str, Callable[[], None]] = {key: partial(forward, form, inputs, shapes) for key, form in forms.items()}
                    if classic is not None:
                        jobs["classic"] = partial(forward, classic, inputs, shapes)
                    if batch <= args.slow_batch:
                        layer = EncoderLayer(HEADS * CHANNELS, HEADS, levels, POINTS, 1024).to(args.device, DTYPES[name]).eval()
                        tokens = inputs[0].flatten(2)
                        jobs["layer"] = partial(layer_forward, ms_deform_attn, layer, tokens, shapes)
                        jobs["layer, twin"] = partial(layer_forward, ms_deform_attn_reference, layer, tokens, shapes)
                        jobs["module"] = partial(module_forward, layer.attention, tokens, shapes)
                        if (their_module := transformers_module(levels, tokens, shapes)) is not None:
                            jobs["module, transformers"] = their_module
                    if classic is not None and args.device == "cpu":
                        forms["classic"] = classic
                    backward_jobs: dict[str, Callable[[], None]] = {
                        key: partial(forward_backward, form, inputs, shapes) for key, form in forms.items()
                    }
                    for direction, batch_of_jobs in (("forward", jobs), ("forward+backward", backward_jobs)):
                        times = fastest(batch_of_jobs, args.device, args.rounds)
                        record: dict[str, object] = {"tokens": inputs[0].shape[1], "levels": levels, "batch": batch, "dtype": name}
                        record |= {"kernels": kernels_of(args.device), "threads": threads, "direction": direction}
                        record |= {"ms": {key: round(ms, 3) for key, ms in times.items()}}
                        if direction == "forward":
                            record["percent_of_roofline"] = round(100 * floor_ms(*inputs, peaks) / times["ours"], 1)
                        records.append(record)
                        print_record(record, times)
    return records


def print_record(record: dict[str, object], times: dict[str, float]) -> None:
    """One row of the table, peers as multiples of ours."""
    ours = times["ours"]
    peers = ", ".join(f"{name} {ms:.2f} ({ms / ours:.1f}x)" for name, ms in times.items() if name in PEERS)
    layer = ""
    if "layer" in times:
        layer = f"{times['layer']:.1f} / {times['layer, twin']:.1f} ({times['layer, twin'] / times['layer']:.1f}x)"
    where = f"{record['tokens']}/{record['levels']} | {record['batch']} | {record['dtype']} | {record['threads']} | {record['kernels']}"
    where += f" | {record['direction']}"
    module = ""
    if "module, transformers" in times:
        module = f"{times['module']:.1f} / {times['module, transformers']:.1f} ({times['module, transformers'] / times['module']:.1f}x)"
    print(f"| {where} | {ours:.2f} | {record.get('percent_of_roofline', '')} | {peers} | {module} | {layer} |", flush=True)


def kernels_of(device: str) -> str:
    """The build of the compiled kernels that is measured."""
    return "cuda" if device == "cuda" else native.STATUS.cpu or "none"


def write(path: Path, device: str, records: list[dict[str, object]]) -> None:
    """Add this run to the file: its rows replace those of the same name, its command joins the others."""
    before = json.loads(path.read_text()) if path.exists() else {"commands": [], "records": []}
    names = ("levels", "batch", "dtype", "threads", "kernels", "direction")
    merged = {tuple(record[name] for name in names): record for record in [*before["records"], *records]}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    commands = sorted({*before["commands"], " ".join(["python", *sys.argv])})
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = [merged[key] for key in sorted(merged, key=lambda key: (key[4], key[3], key[0], key[1], key[2], key[5]))]
    path.write_text(json.dumps(about | {"commands": commands, "records": ordered}, indent=1) + "\n")


def main() -> None:
    """Parse the command line, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sets", nargs="+", default=instruction_sets(), choices=instruction_sets(), help="builds of the CPU kernels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3], choices=[1, 2, 3])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--slow-batch", type=int, default=1, help="largest batch for the peers and the layer")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also grid_sample under torch.compile (a minute of compiling)")
    parser.add_argument("--no-classic", action="store_true", help="leave out the classic arithmetic, which is compiled for this")
    parser.add_argument("--out", type=Path, help="write the JSON here")
    args = parser.parse_args()
    if args.device == "cpu" and args.sets != [native.STATUS.cpu]:
        for kernels in args.sets:  # chosen when the library is loaded, so once per process
            command = [sys.executable, *sys.argv, "--sets", kernels]
            subprocess.run(command, check=True, env=os.environ | {"MS_DEFORM_ATTN_CPU": kernels})
        return
    columns = ["tokens/levels", "batch", "dtype", "threads", "kernels", "direction", "ours, ms", "% of roofline", "peers, ms"]
    columns += ["module: ours / transformers", "layer: ours / twin"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    records = measure(args)
    if args.out:
        write(args.out, args.device, records)


if __name__ == "__main__":
    main()
