"""Published models whose layouts `proscale convert` reads: `data/published_models.json`, figures as their authors published them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from proscale.config import Task

FILE = Path(__file__).resolve().parent.parent / "data" / "published_models.json"


@dataclass(frozen=True)
class PublishedModel:
    """A published checkpoint."""

    name: str
    dataset: str
    task: Task
    backbone: str
    labels: str
    """Labels table."""
    metrics: Mapping[str, float]
    """In percent, of one scale without flipping."""
    reference: str
    """Where the figures stand."""
    licence: str
    file: str | None
    """Address of the weights; None where they are handed out in another way (see `reference`)."""
    hub: str | None
    """Repository on the Hugging Face hub with the same weights."""
    base: str | None = None
    """Repository of the weights that these are differences from."""

    config: str | None = None
    """The authors' configuration, by name, where weights without it cannot be told."""

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return self.name.lower().replace(" ", "-").replace("(", "").replace(")", "").replace(",", "")

    @property
    def commands(self) -> list[str]:
        """What to type: from the hub, and from the authors' own file."""
        out = self.slug
        base = "" if self.base is None else f" --base hf:{self.base}"
        commands = [] if self.hub is None else [f"proscale convert hf:{self.hub} {out}{base}"]
        if self.file is None and self.hub is not None:
            return commands
        weights = "CHECKPOINT.pth" if self.file is None else self.file.rsplit("/", 1)[1]
        fetch = "" if self.file is None else f"curl -LO {self.file} && "
        config = "" if self.config is None else f" --config {self.config}"
        return [*commands, f"{fetch}proscale convert {weights} {out}{config} --labels {self.labels} --task {self.task}"]


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """All of them, in the order of the file."""
    return tuple(PublishedModel(**values) for values in json.loads(FILE.read_text(encoding="utf-8")))
