"""What a comparison with reference outputs found, and how tensors are compared."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Report:
    """Differences of one case, and which of them are too large."""

    name: str
    lines: list[str] = field(default_factory=list)
    failed: bool = False

    def add(self, what: str, value: float, limit: float) -> None:
        bad = not value <= limit  # not-a-number fails too
        self.failed |= bad
        self.lines.append(f"  {what:<28} {value:10.3g}  (limit {limit:g}){'  FAILED' if bad else ''}")

    def require(self, what: str, ok: bool, detail: str = "") -> None:
        self.failed |= not ok
        self.lines.append(f"  {what:<28} {'equal' if ok else 'DIFFERENT  FAILED ' + detail}")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite when the shapes differ."""
    return (ours.double() - theirs.double()).abs().max().item() if ours.shape == theirs.shape else float("inf")


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest magnitude (at least 1): features have no natural scale, logits do."""
    return difference(ours, theirs) / max(1.0, theirs.abs().max().item())


def share_differing(ours: Tensor, theirs: Tensor) -> float:
    """Share of elements that differ; 1 when the shapes do."""
    return (ours != theirs).double().mean().item() if ours.shape == theirs.shape else 1.0
