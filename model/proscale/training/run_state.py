"""A run's saved state: written whole or not at all, checked when it is read, and never resumed with other settings unnoticed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from proscale.errors import CheckpointError
from proscale.training.config import TrainingConfig

STATE_FILE = "last.pt"
CHANGEABLE = ("settings.learning_rate", "settings.steps", "settings.decay_share", "settings.clip_norm", "model.preprocess.training_side")
"""What may differ when a run is resumed; the change is recorded."""


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the folder's state. A full disk or a kill leaves the earlier one.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    temporary = folder / f"{STATE_FILE}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / STATE_FILE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """The state in the folder.

    Raises:
        CheckpointError: there is none, or it is broken; names the file and the remedy.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: {path} does not exist. Start without --resume, or name the run's folder.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not {"definition", "learner", "average", "optimizer", "step"} <= state.keys():
            raise ValueError("it holds no training state")
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(
            f"{path} cannot be read ({error}). Restore it from a copy, or delete it and start again without --resume; "
            f"{folder / 'model'}, if it is there, still holds the last trained weights and serves as --init."
        ) from error
    return state


def compare_definitions(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> dict[str, tuple[Any, Any]]:
    """What may change and did: name -> (before, now).

    Raises:
        CheckpointError: anything else differs; lists it.
    """
    # Settings that came after the run was saved have had their defaults since.
    before, after = flatten({"settings": asdict(TrainingConfig())}) | flatten(saved), flatten(now)
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    refused = [name for name in names if name not in CHANGEABLE]
    if any(name.startswith("categories") for name in refused):
        raise CheckpointError(
            f"{path} was trained on other categories: {_categories(saved)} then, {_categories(now)} now. "
            "Ids, names and order must be the same; restore the data set's, or start a new run with --init."
        )
    if refused:
        changes = "; ".join(f"{name} was {before.get(name)!r}, is {after.get(name)!r}" for name in refused[:6])
        raise CheckpointError(
            f"{path} was made with another configuration ({changes}). Resume with the options that the run was started with; "
            f"only {', '.join(name.removeprefix('settings.') for name in CHANGEABLE)} may change."
        )
    return {name: (before.get(name), after.get(name)) for name in names}


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and sequences as one mapping of dotted names."""
    if isinstance(values, Mapping):
        items: Any = values.items()
    elif isinstance(values, Sequence) and not isinstance(values, str):
        items = enumerate(values)
    else:
        return {prefix: values}
    return {name: value for key, part in items for name, value in flatten(part, f"{prefix}.{key}" if prefix else str(key)).items()}


def _categories(definition: Mapping[str, Any]) -> str:
    shown = [f"{row['id']} {row['name']}" for row in definition.get("categories", [])]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
