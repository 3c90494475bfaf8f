"""`proscale doctor`: what is active on this machine, and why."""

import platform
import sys

import click

from proscale import __version__
from proscale.processors import processors, waiting_in_words


def report() -> dict[str, str]:
    """Name -> finding, in the order in which they are shown."""
    import torch  # here and below: `--help` should not wait for it

    from proscale.ops import native

    status = native.STATUS
    findings = {
        "proscale": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, " + (f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"),
        "torch's CPU kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": f"{torch.get_num_threads()} of {processors().in_words()} (PROSCALE_THREADS, OMP_NUM_THREADS)",
        "waiting threads": waiting_in_words(),
        "operator on the CPU": (
            f"compiled, {status.cpu} ({status.cpu_reason})"
            if status.cpu
            else f"pure torch, slow: {status.cpu_reason}. Remedy: {native.REMEDY}"
        ),
        "bfloat16 on the CPU": cpu_bfloat16_in_words(),
        "int8 on the CPU": cpu_int8_in_words(),
        "operator on CUDA": f"compiled ({status.cuda_reason})" if status.cuda else f"pure torch: {status.cuda_reason}",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        findings[f"cuda:{index}"] = f"{properties.name}, sm_{properties.major}{properties.minor}, {memory:.0f} GiB"
    return findings


def cpu_bfloat16_in_words() -> str:
    """Whether `--precision bfloat16` pays on this processor."""
    from proscale.precision import cpu_bfloat16

    fast, why = cpu_bfloat16()
    return f"fast, by {why}" if fast else f"slower than float32: {why}. Remedy: leave the precision at float32"


def cpu_int8_in_words() -> str:
    """Whether `--precision int8` is taken on this processor."""
    from proscale.precision import cpu_int8

    fast, why = cpu_int8()
    return f"fast, by {why}, for models calibrated with `proscale quantize`" if fast else f"refused: {why}"


def works() -> str:
    """Run the operator once per device; returns what came out, in words. Raises whatever fails."""
    import torch

    from proscale.ops.ms_deform_attn import ms_deform_attn
    from proscale.ops.reference import ms_deform_attn_reference

    answers = []
    for device in ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]:
        generator = torch.Generator().manual_seed(0)
        shapes = [4, 4, 8, 8]
        value, offsets, logits = (torch.randn(size, generator=generator) for size in ((1, 80, 8, 32), (1, 80, 8, 2, 4, 2), (1, 80, 8, 8)))
        want = ms_deform_attn_reference(value.double(), offsets.double(), logits.double(), shapes)
        got = ms_deform_attn(value.to(device), offsets.to(device), logits.to(device), shapes).double().cpu()
        answers.append(f"{device} {((got - want).norm() / want.norm()).item():.0e} from float64")
    return ", ".join(answers)


@click.command()
def doctor() -> None:
    """Show what is active on this machine and why, and run the attention operator once on every device."""
    findings = report()
    try:
        findings["operator, run once"] = works()
        failed = False
    except (RuntimeError, ValueError) as error:
        findings["operator, run once"] = f"FAILED: {error}"
        failed = True
    width = max(map(len, findings))
    for name, finding in findings.items():
        click.echo(f"{name:<{width}}  {finding}")
    sys.exit(1 if failed else 0)
