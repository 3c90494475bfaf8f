"""What a checkpoint's companions say that its shapes do not: configuration files beside it, and options of the user."""

from dataclasses import dataclass, fields, replace

from proscale.config import Task
from proscale.errors import CheckpointError


@dataclass(frozen=True)
class StatedSettings:
    """Every field may be unknown (None)."""

    heads: int | None = None
    points: int | None = None
    temperature: float | None = None
    residual: bool | None = None
    task: Task | None = None
    """What the model was trained for; panoptic models do all three."""
    combine_first: bool | None = None
    """Semantic: combine queries at the padded size, and resize the scores (what semantic-only models do)."""
    dataset: str | None = None
    """Name of the labels table."""
    unknown_dataset: str | None = None
    """What a configuration calls its data set, when no labels table is of it: the number of classes must not be taken for a table's."""
    label_names: tuple[str, ...] | None = None
    label_ids: tuple[int, ...] | None = None
    """Of `label_names`, as the file numbers them."""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    short_side: int | None = None
    long_side: int | None = None
    size: tuple[int, int] | None = None
    """(height, width) to which every picture is squeezed."""
    resize: bool | None = None
    size_divisor: int | None = None
    align: str | None = None
    filter: str | None = None
    threshold: float | None = None
    overlap_threshold: float | None = None
    max_instances: int | None = None
    claims: tuple[tuple[str, object], ...] = ()
    """What a configuration says of things that shapes say too: (path in our configuration, value)."""

    def or_else(self, other: "StatedSettings") -> "StatedSettings":
        """These hints, and `other`'s where these are silent."""
        filled = {field.name: getattr(other, field.name) for field in fields(self) if getattr(self, field.name) is None}
        return replace(self, **filled, claims=self.claims + other.claims)


def check_claims(hints: StatedSettings, found: object, file: str) -> None:
    """Raise CheckpointError, with a list, when a configuration contradicts what the shapes say.

    Args:
        hints: with claims such as ("backbone.embed_dim", 96).
        found: the configuration read from the shapes.
        file: named in the message.
    """
    contradictions = []
    for path, claimed in hints.claims:
        value = found
        for part in path.split("."):
            value = getattr(value, part, None)
        if value is not None and value != claimed:
            contradictions.append(f"{path} is {claimed} there, {value} in the weights")
    if contradictions:
        raise CheckpointError(f"{file} does not belong to these weights: " + "; ".join(contradictions))
