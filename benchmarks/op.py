"""The deformable attention operator against what else computes it, in one run: `.venv/bin/python benchmarks/op.py`.

Every row counts the same work, from value, offsets and logits to the weighted sums: softmax and sampling locations included. The peers:
`grid_sample`, the pure-torch twin; the same under torch.compile; `classic`, the arithmetic that Deformable DETR made common (softmax and
locations by torch, then a gather that is given float32 locations in 0..1), written anew from the paper for CPU and GPU; transformers'
function where it is installed. `module` is the attention with its projections, ours and transformers'; `layer` a whole encoder layer, with
our operator and with the twin. Times are medians over interleaved rounds, so that whatever else the machine does hits all alike.
With --out, runs of several commands gather in one file: a row measured again replaces the older one.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from proscale.layers import deformable_attention
from proscale.layers.deformable_attention import DeformableAttention
from proscale.ops import native
from proscale.ops.ms_deform_attn import ms_deform_attn
from proscale.ops.reference import ms_deform_attn_reference, token_centres
from proscale.pixel_decoder.encoder_layer import EncoderLayer

SHAPES = {1: [32, 32], 2: [32, 32, 64, 64], 3: [32, 32, 64, 64, 128, 128]}
"""PRO-SCALE's three stages for a picture of 1024 x 1024: levels -> heights and widths; 1024, 5120, 21504 tokens."""
HEADS, CHANNELS, POINTS = 8, 32, 4
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PEAKS = {"H100": (3.35e12, 67e12), "H200": (4.8e12, 67e12), "A100": (2.0e12, 19.5e12)}
"""Memory bytes/s and float32 FLOP/s by the maker's data sheets."""

PEERS = ("grid_sample", "grid_sample compiled", "transformers", "classic")

Form = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]

CLASSIC_SAMPLE = r"""
#include <math.h>
#include <stdint.h>
#define ARGUMENTS const float *value, const int64_t *shapes, const int64_t *starts, const float *locations, const float *weights, \
    float *out, int64_t batch, int64_t tokens, int64_t heads, int64_t channels, int64_t queries, int64_t levels, int64_t points
"""

CLASSIC_CPU = (
    CLASSIC_SAMPLE
    + r"""
extern "C" void classic(ARGUMENTS) {
#pragma omp parallel for
  for (int64_t row = 0; row < batch * queries * heads; ++row) {
    const int64_t h = row % heads, b = row / heads / queries;
    float *o = out + row * channels;
    for (int64_t c = 0; c < channels; ++c) o[c] = 0;
    for (int64_t l = 0; l < levels; ++l) {
      const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
      const float *v = value + ((b * tokens + starts[l]) * heads + h) * channels;
      for (int64_t p = 0; p < points; ++p) {
        const int64_t k = (row * levels + l) * points + p;
        const float x = locations[2 * k] * width - 0.5f, y = locations[2 * k + 1] * height - 0.5f;
        if (!(x > -1 && y > -1 && x < width && y < height)) continue;
        const int64_t x0 = (int64_t)floorf(x), y0 = (int64_t)floorf(y);
        const float fx = x - x0, fy = y - y0, share[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
        for (int corner = 0; corner < 4; ++corner) {
          const int64_t cy = y0 + corner / 2, cx = x0 + corner % 2;
          if (cy < 0 || cx < 0 || cy >= height || cx >= width) continue;
          const float *from = v + (cy * width + cx) * heads * channels, w = weights[k] * share[corner];
          for (int64_t c = 0; c < channels; ++c) o[c] += w * from[c];
        }
      }
    }
  }
}
"""
)

CLASSIC_CUDA = (
    CLASSIC_SAMPLE
    + r"""
// One thread per output channel, which works out every location again: that is how it has always been done.
__global__ void gather(ARGUMENTS) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= batch * queries * heads * channels) return;
  const int64_t c = i % channels, row = i / channels, h = row % heads, b = row / heads / queries;
  float sum = 0;
  for (int l = 0; l < levels; ++l) {
    const int height = shapes[2 * l], width = shapes[2 * l + 1];
    const float *v = value + ((b * tokens + starts[l]) * heads + h) * channels + c;
    const int stride = heads * channels;
    for (int p = 0; p < points; ++p) {
      const int64_t k = (row * levels + l) * points + p;
      const float x = locations[2 * k] * width - 0.5f, y = locations[2 * k + 1] * height - 0.5f;
      if (!(x > -1 && y > -1 && x < width && y < height)) continue;
      const int x0 = floorf(x), y0 = floorf(y);
      const float fx = x - x0, fy = y - y0;
      const bool left = x0 >= 0, right = x0 + 1 < width, up = y0 >= 0, down = y0 + 1 < height;
      const float v00 = left && up ? v[(y0 * width + x0) * stride] : 0, v01 = right && up ? v[(y0 * width + x0 + 1) * stride] : 0;
      const float v10 = left && down ? v[((y0 + 1) * width + x0) * stride] : 0;
      const float v11 = right && down ? v[((y0 + 1) * width + x0 + 1) * stride] : 0;
      sum += weights[k] * ((1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11));
    }
  }
  out[i] = sum;
}
extern "C" void classic(ARGUMENTS) {
  const int64_t threads = batch * queries * heads * channels;
  gather<<<(unsigned)((threads + 1023) / 1024), 1024>>>(
      value, shapes, starts, locations, weights, out, batch, tokens, heads, channels, queries, levels, points);
}
"""
)


def make_inputs(levels: int, batch: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Value; offsets of a few pixels, as trained models have them, and logits: views of one product's output, as in the model."""
    shapes, samples = SHAPES[levels], HEADS * levels * POINTS
    tokens = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True))
    generator = torch.Generator().manual_seed(0)
    joined = torch.randn(batch, tokens, samples * 3, generator=generator)
    joined[..., : samples * 2] *= 2
    joined = joined.to(device, dtype)
    value = torch.randn(batch, tokens, HEADS, CHANNELS, generator=generator).to(device, dtype)
    offsets = joined[..., : samples * 2].unflatten(-1, (HEADS, levels, POINTS, 2))
    return value, offsets, joined[..., samples * 2 :].unflatten(-1, (HEADS, levels * POINTS))


def locations_and_weights(offsets: Tensor, logits: Tensor, shapes: list[int]) -> tuple[Tensor, Tensor]:
    """What the peers want made for them: float32 locations in 0..1 and softmaxed weights."""
    size = torch.tensor([[w, h] for h, w in zip(shapes[::2], shapes[1::2], strict=True)], dtype=torch.float32, device=offsets.device)
    centres = token_centres(tuple(shapes)).float().to(offsets.device)[None, :, None, None, None]
    return centres + offsets.float() / size[None, None, None, :, None], logits.float().softmax(-1)


def classic_form(device: str) -> Form | None:
    """The classic arithmetic in float32, or None where its compiler is missing."""
    folder = Path(tempfile.mkdtemp())
    source, library_path = folder / ("classic.cu" if device == "cuda" else "classic.cpp"), folder / "classic.so"
    source.write_text(CLASSIC_CUDA if device == "cuda" else CLASSIC_CPU)
    cpu = ["g++", "-O3", "-march=native", "-fopenmp", "-ffast-math", "-shared", "-fPIC"]
    command = ["nvcc", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"] if device == "cuda" else cpu
    try:
        subprocess.run([*command, str(source), "-o", str(library_path)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"classic left out: {error}")
        return None
    library = ctypes.CDLL(str(library_path))
    sizes = {levels: torch.tensor(shapes, device=device) for levels, shapes in SHAPES.items()}
    starts = {levels: torch.tensor([0, 1024, 5120][:levels], device=device) for levels in SHAPES}

    def run(value: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
        locations, weights = locations_and_weights(offsets, logits, shapes)
        value, locations, weights = value.float().contiguous(), locations.contiguous(), weights.contiguous()
        batch, tokens, heads, channels = value.shape
        levels = len(shapes) // 2
        out = torch.empty(batch, offsets.shape[1], heads * channels, device=value.device)
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (value, sizes[levels], starts[levels], locations, weights, out)]
        library.classic(*pointers, *map(ctypes.c_int64, (batch, tokens, heads, channels, offsets.shape[1], levels, offsets.shape[4])))
        return out

    return run


def transformers_form() -> Form | None:
    """Transformers' function with the softmax and locations before it, or None where it is not installed."""
    try:
        from transformers.models.mask2former import modeling_mask2former as theirs
    except ImportError:
        return None

    def run(value: Tensor, offsets: Tensor, logits: Tensor, shapes: list[int]) -> Tensor:
        locations, weights = locations_and_weights(offsets, logits, shapes)
        pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
        weights = weights.unflatten(-1, (len(pairs), POINTS))
        result: Tensor = theirs.multi_scale_deformable_attention(value, pairs, locations.to(value.dtype), weights.to(value.dtype))
        return result

    return run


def transformers_module(levels: int, tokens: Tensor, shapes: list[int]) -> Callable[[], None] | None:
    """One pass of transformers' attention module, projections included, or None where it is not installed."""
    try:
        from transformers.models.mask2former import modeling_mask2former as theirs
    except ImportError:
        return None
    module = theirs.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(HEADS * CHANNELS, HEADS, levels, POINTS)
    module = module.to(tokens.device, tokens.dtype).eval()
    pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
    centres = token_centres(tuple(shapes)).to(tokens.device, tokens.dtype)[None, :, None].expand(len(tokens), -1, levels, -1)

    def run() -> None:
        with torch.inference_mode():
            module(hidden_states=tokens, encoder_hidden_states=tokens, reference_points=centres, spatial_shapes_list=pairs)

    return run


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
    deformable_attention.ms_deform_attn = form  # type: ignore[assignment]
    with torch.inference_mode():
        layer(tokens, tokens[0], shapes)
    deformable_attention.ms_deform_attn = ms_deform_attn


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


def medians(jobs: dict[str, Callable[[], None]], device: str, rounds: int) -> dict[str, float]:
    """Milliseconds per job, median over interleaved rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(job, device))
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}


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
                    backward_jobs: dict[str, Callable[[], None]] = {
                        key: partial(forward_backward, form, inputs, shapes) for key, form in forms.items()
                    }
                    for direction, batch_of_jobs in (("forward", jobs), ("forward+backward", backward_jobs)):
                        times = medians(batch_of_jobs, args.device, args.rounds)
                        record: dict[str, object] = {"tokens": inputs[0].shape[1], "levels": levels, "batch": batch, "dtype": name}
                        record |= {"threads": threads, "direction": direction, "ms": {key: round(ms, 3) for key, ms in times.items()}}
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
    where = f"{record['tokens']}/{record['levels']} | {record['batch']} | {record['dtype']} | {record['threads']} | {record['direction']}"
    module = ""
    if "module, transformers" in times:
        module = f"{times['module']:.1f} / {times['module, transformers']:.1f} ({times['module, transformers'] / times['module']:.1f}x)"
    print(f"| {where} | {ours:.2f} | {record.get('percent_of_roofline', '')} | {peers} | {module} | {layer} |", flush=True)


def hardware(device: str) -> str:
    """The device in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, {native.STATUS.cpu}"


def write(path: Path, device: str, records: list[dict[str, object]]) -> None:
    """Add this run to the file: its rows replace those of the same name, its command joins the others."""
    before = json.loads(path.read_text()) if path.exists() else {"commands": [], "records": []}
    names = ("levels", "batch", "dtype", "threads", "direction")
    merged = {tuple(record[name] for name in names): record for record in [*before["records"], *records]}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    commands = sorted({*before["commands"], " ".join(["python", *sys.argv])})
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = [merged[key] for key in sorted(merged, key=lambda key: (key[3], key[0], key[1], key[2], key[4]))]
    path.write_text(json.dumps(about | {"commands": commands, "records": ordered}, indent=1) + "\n")


def main() -> None:
    """Parse the command line, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
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
    columns = ["tokens/levels", "batch", "dtype", "threads", "direction", "ours, ms", "% of roofline", "peers, ms"]
    columns += ["module: ours / transformers", "layer: ours / twin"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    records = measure(args)
    if args.out:
        write(args.out, args.device, records)


if __name__ == "__main__":
    main()
