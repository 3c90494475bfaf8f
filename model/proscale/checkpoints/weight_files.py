"""Checkpoint files -> named tensors. The content decides how a file is read, not its ending; nothing in it is ever run."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from proscale.checkpoints.array_pickles import read_pickle
from proscale.checkpoints.torch_pickles import read_torch_archive
from proscale.errors import CheckpointError

INDEX_FILE = "model.safetensors.index.json"
FOLDER_FILES = (INDEX_FILE, "model.safetensors", "pytorch_model.bin")
"""Where a folder keeps its weights, in order of preference."""
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file by `torch.save` before 1.6."""
NESTED = ("model", "state_dict", "model_state_dict")
"""Keys under which trainers save the weights beside everything else."""
WRAPPERS = ("module.", "model.module.")


@dataclass(frozen=True)
class Checkpoint:
    """Weights as a file has them."""

    files: tuple[Path, ...]
    """The files that hold them."""
    state: dict[str, Tensor]
    """Under the file's own names."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What mmengine keeps beside weights: the configuration's text, the classes' names."""


def find_files(path: Path) -> tuple[Path, ...]:
    """The weight files of SOURCE: the file itself, or the one (or the shards) that a folder holds.

    Raises:
        CheckpointError: nothing there, or more than one candidate; the text names them.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}: neither a file nor a folder")
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return _shards(path / name) if name == INDEX_FILE else (path / name,)
    candidates = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".pth", ".pkl", ".pt", ".bin"))
    if len(candidates) != 1:
        found = ", ".join(file.name for file in candidates) or "no such file"
        raise CheckpointError(f"{path} should hold one checkpoint ({', '.join(FOLDER_FILES)}, or a .pth or .pkl); it holds {found}")
    return (candidates[0],)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights of a file or folder.

    Raises:
        CheckpointError: the file is damaged, holds no tensors, or holds more than data.
    """
    files = find_files(path)
    state: dict[str, Tensor] = {}
    meta: Any = {}
    for file in files:
        values = _read_file(file)
        state |= _tensors(values, file)
        meta = values.get("meta", meta)
    for wrapper in WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return Checkpoint(files, state, meta if isinstance(meta, Mapping) else {})


def sha256(files: tuple[Path, ...]) -> str:
    """Hash of a file's bytes, or of all shards' one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors ({error}). Download it again.") from error
    if head.startswith(b"PK") or head.startswith(LEGACY_TORCH):
        return _read_torch(path)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a pointer of git-lfs, not the file itself; run `git lfs pull`")
    return read_pickle(path)


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Given the open file, not its name: torch would go by the ending.
            value = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes on damaged and on dangerous files; both are refusals
        if (archive := _read_mmengine(path)) is not None:
            return archive
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "GLOBAL" in str(error):
            named = str(error).split("GLOBAL ", 1)[1].split(" was not", 1)[0].split()[0]
            reason = f"it wants to use {named}"
        raise CheckpointError(
            f"{path} is refused: torch cannot read it as weights alone ({reason}). Nothing in the file has been run. "
            "If you trust it, save its weights again as safetensors."
        ) from None
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not named tensors")
    return value


def _read_mmengine(path: Path) -> Mapping[str, Any] | None:
    """A file of mmengine's, whose log entries torch's reader refuses; None: it is none, or cannot be read so either."""
    try:
        values = read_torch_archive(path)
    except CheckpointError:
        return None
    return values if isinstance(values.get("state_dict"), Mapping) and "meta" in values else None


def _tensors(values: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    for name in NESTED:
        if isinstance(values.get(name), Mapping):
            values = values[name]
            break
    state = {name: _tensor(value) for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor | np.ndarray)}
    if not state:
        raise CheckpointError(f"{path} holds no named tensors, not even under {', '.join(NESTED)}")
    return state


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape)) if isinstance(value, np.ndarray) else value.detach()


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from error
    shards = tuple(index.parent / Path(name).name for name in names)
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names. Copy the folder again, whole.")
    return shards
