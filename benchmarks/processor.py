"""Which processor a benchmark ran on: in words for tables, and as part of a file's name."""

import os
import platform
import re
from pathlib import Path

from proscale.ops import native

INSTRUCTION_SETS = ("plain", "avx2", "avx512")
"""Builds of the compiled kernels, each with wider vectors than the one before."""


def processor() -> dict[str, object]:
    """Name, family and model as the system tells them, processors, and the widest build of the kernels that runs."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    about: dict[str, object] = {"name": fields.get("model name", platform.machine())}
    about |= {key: int(fields[name]) for key, name in (("family", "cpu family"), ("model", "model")) if fields.get(name, "").isdigit()}
    return about | {"processors": os.cpu_count(), "kernels": native.STATUS.cpu}


def slug() -> str:
    """For file names: `amd-epyc-25-17`; virtual machines often hide the name, family and model number tell the generation."""
    about = processor()
    words = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", str(about["name"]).lower())
    return "-".join([*re.findall(r"[a-z0-9]+", words), *(str(about[key]) for key in ("family", "model") if key in about)])


def instruction_sets() -> list[str]:
    """Builds that this machine runs, plainest first."""
    return list(INSTRUCTION_SETS[: INSTRUCTION_SETS.index(native.STATUS.cpu) + 1]) if native.STATUS.cpu else []
