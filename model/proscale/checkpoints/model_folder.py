"""A model as a folder: `config.json`, `labels.json`, `model.safetensors`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from proscale.config import NetworkConfig
from proscale.config_json import CONFIG_FILE, config_from_json, config_to_json
from proscale.errors import CheckpointError
from proscale.labels import Category

LABELS_FILE, WEIGHTS_FILE = "labels.json", "model.safetensors"
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "data" / "default"
"""The model inside the package, used where none is named."""


def save_folder(
    path: str | Path,
    config: NetworkConfig,
    categories: Sequence[Category],
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model folder; existing files of these names are replaced.

    Args:
        categories: one per class, in the order of the network's classes.
        state: the network's state dict.
        dtype: of floating tensors on disk; they are loaded as float32.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    if len(categories) != config.classes:
        raise CheckpointError(f"{len(categories)} categories for {config.classes} classes")
    _write(folder / CONFIG_FILE, json.dumps(config_to_json(config), indent=2))
    _write(folder / LABELS_FILE, json.dumps([asdict(category) for category in categories], indent=1))
    tensors = {name: (t.to(dtype) if t.is_floating_point() else t).detach().cpu().contiguous() for name, t in state.items()}
    write_tensors(tensors, folder / WEIGHTS_FILE)
    # safetensors writes for its owner alone; a server often runs as somebody else.
    (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)


def write_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        save_file(tensors, path, about)
    except SafetensorError as error:  # its own kind also where the system failed
        raise CheckpointError(f"{path} cannot be written ({error}). Free disk space, or name another place.") from error


def load_folder(path: str | Path) -> tuple[NetworkConfig, tuple[Category, ...], dict[str, Tensor]]:
    """Read a model folder; tensors stay memory-mapped until they are used.

    Raises:
        CheckpointError: the folder or one of its files is missing or malformed; the text says what to do.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"no model folder at {folder}. Name a folder with {CONFIG_FILE}, {LABELS_FILE} and {WEIGHTS_FILE}, "
            "or leave the checkpoint unset to use the model that comes with the package."
        )
    if missing := [name for name in (CONFIG_FILE, LABELS_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} is not a complete model folder: {', '.join(missing)} missing. Copy the folder again, whole.")
    config = config_from_json(read_json(folder / CONFIG_FILE), folder / CONFIG_FILE)
    categories = _categories(read_json(folder / LABELS_FILE), folder / LABELS_FILE)
    if len(categories) != config.classes:
        raise CheckpointError(f"{folder / LABELS_FILE} has {len(categories)} categories, {CONFIG_FILE} says {config.classes} classes")
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} cannot be read as safetensors ({error}). Copy or convert it again.") from error
    return config, categories, state


def _categories(values: Any, source: Path) -> tuple[Category, ...]:
    try:
        return tuple(Category(int(value["id"]), str(value["name"]), bool(value["isthing"])) for value in values)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} must be a list of {{id, name, isthing}}: {error!r}") from error


def read_json(path: Path) -> Any:
    """The values of a JSON file; CheckpointError, naming the file, when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
