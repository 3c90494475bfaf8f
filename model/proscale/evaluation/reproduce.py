"""A published model against its authors' figures: what it takes, and how measured figures compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from proscale.checkpoints.published_models import PublishedModel, published_models
from proscale.errors import CheckpointError

MEASURED = {"PQ": "pq", "AP": "ap", "mIoU": "miou"}
"""Published metric -> its name in a report."""
MEGAPARAMETERS = {"ResNet-50": 44, "ResNet-101": 63, "Swin-T": 47, "Swin-S": 69, "Swin-B": 107, "Swin-L": 216}
"""Parameters of a whole Mask2Former on each backbone, in millions, rounded."""
DATA_GB = {"COCO": 3, "ADE20K": 2, "Cityscapes": 12, "Mapillary Vistas": 25}
"""Disk that pictures and annotation of the validation split take, archives unpacked and removed, roughly."""
SPLITS = {"COCO": "val2017"}


@dataclass(frozen=True)
class Comparison:
    """One metric, in percent."""

    metric: str
    published: float
    measured: float | None
    tolerance: float

    @property
    def verdict(self) -> str:
        """`pass`, `fail`, or why there is none."""
        if self.measured is None:
            return "not measured: the data set has no annotation for it"
        return "pass" if abs(self.measured - self.published) <= self.tolerance + 1e-9 else "fail"


def find_model(name: str) -> PublishedModel:
    """The model of this name; parts of a name do where they leave no choice, and so does the hub's name.

    Raises:
        CheckpointError: none or several; the text lists them.
    """
    wanted = name.removeprefix("hf:").casefold()
    everything = published_models()
    exact = [model for model in everything if wanted in (model.name.casefold(), (model.hub or "").casefold(), model.slug)]
    words = wanted.replace("-", " ").split()
    found = exact or [model for model in everything if all(word in model.name.casefold().replace("-", " ") for word in words)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(f"no published model is called {name!r}; `proscale models` lists them")
    raise CheckpointError(f"{name!r} may be {', '.join(repr(model.name) for model in found[:8])}; write one of them whole")


def disk_needed(model: PublishedModel) -> int:
    """Bytes for the download and the converted model, without the data set."""
    millions = next((size for name, size in MEGAPARAMETERS.items() if model.backbone.startswith(name)), 216)
    return 2 * 4 * millions * 10**6


def steps(model: PublishedModel, data: Path, out: Path) -> list[str]:
    """The commands that do the same one by one."""
    commands = [command.replace(f" {model.slug}", f" {out / model.slug}") for command in model.commands[:1]]
    return [*commands, f"proscale evaluate --data {data} --checkpoint {out / model.slug} --json {out / model.slug}.json"]


def fetch_file(url: str, path: Path) -> Path:
    """Download the authors' own file, with progress; whole or not at all, and not twice.

    Raises:
        CheckpointError: no answer, a refusal, or a full disk.
    """
    if path.is_file():
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with httpx.stream("GET", url, follow_redirects=True, timeout=60.0) as response, part.open("wb") as file:
            response.raise_for_status()
            size = int(response.headers.get("content-length", 0))
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
                for block in response.iter_bytes(2**20):
                    file.write(block)
                    bar.update(len(block))
        part.rename(path)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CheckpointError(f"{url} cannot be fetched: {error or type(error).__name__}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def compare(model: PublishedModel, report: Mapping[str, Any], tolerance: float) -> list[Comparison]:
    """Measured against published, for every published metric."""
    rows = []
    for metric, published in model.metrics.items():
        own = metric == "AP" and model.dataset == "Cityscapes"  # published in its own AP
        value = report.get("cityscapes_ap" if own else MEASURED[metric])
        rows.append(Comparison(metric, published, None if value is None else 100 * value, tolerance))
    return rows
