"""Checkpoint files -> named tensors. The content decides how a file is read, not its ending; nothing in it is ever run."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from proscale.checkpoints.array_pickles import read_pickle
from proscale.checkpoints.torch_pickles import read_torch_archive
from proscale.checkpoints.training_wrappers import MAX_DEPTH, choose_weights, find_weights
from proscale.errors import CheckpointError

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FOLDER_FILES = (INDEX_FILES[0], "model.safetensors", INDEX_FILES[1], "pytorch_model.bin")
"""Where a folder keeps its weights, in order of preference."""
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file by `torch.save` before 1.6."""
HARMLESS = {
    *(
        "numpy",
        "collections",
        "argparse",
        "pathlib",
        "datetime",
        "typing",
        "yacs",
        "detectron2",
        "mmengine",
        "mmcv",
        "omegaconf",
        "easydict",
    ),
    *("pytorch_lightning", "lightning", "lightning_fabric", "deepspeed", "transformers", "accelerate", "timm", "addict"),
}
"""Packages whose objects trainers keep beside weights. They are not read and not run: inert stand-ins take their place."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights as a file has them."""

    files: tuple[Path, ...]
    """The files that hold them."""
    state: dict[str, Tensor]
    """Under the file's own names."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What mmengine keeps beside weights: the configuration's text, the classes' names."""
    note: str | None = None
    """Which weights were chosen, where there was a choice."""


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
            return _shards(path / name) if name in INDEX_FILES else (path / name,)
    candidates = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".pth", ".pkl", ".pt", ".bin"))
    if len(candidates) != 1:
        found = ", ".join(file.name for file in candidates) or "no such file"
        raise CheckpointError(f"{path} should hold one checkpoint ({', '.join(FOLDER_FILES)}, or a .pth or .pkl); it holds {found}")
    return (candidates[0],)


def read_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """Read the weights of a file or folder, without what trainers put around them.

    Args:
        weights: which, where there are several: `model`, `ema`, or where they stand in the file.

    Raises:
        CheckpointError: the file is damaged, holds no tensors, or holds more than data.
    """
    files = find_files(path)
    values: dict[str, Any] = {}
    for file in files:
        values |= _read_file(file)
    found = find_weights(values)
    if not found:
        raise CheckpointError(f"{path} holds no named tensors, at most {MAX_DEPTH} dictionaries deep")
    try:
        chosen, note = choose_weights(found, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    meta = values.get("meta")
    return Checkpoint(files, chosen.state, meta if isinstance(meta, Mapping) else {}, note)


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
        if (archive := _read_beside_objects(path)) is not None:
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


def _read_beside_objects(path: Path) -> Mapping[str, Any] | None:
    """A file with objects of trainers beside its weights, which torch's reader refuses; None: it names anything else, or is damaged."""
    try:
        with path.open("rb") as file:
            named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # whatever a damaged file does to it, the file has been refused before
        return None
    try:
        values = read_torch_archive(path)
    except CheckpointError:
        return None
    # mmengine's files are known by their form: their log entries may be of any class.
    of_mmengine = isinstance(values.get("state_dict"), Mapping) and "meta" in values
    return values if of_mmengine or (named and all(name.split(".", 1)[0] in HARMLESS for name in named)) else None


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from error
    shards = tuple(index.parent / Path(name).name for name in names)
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names. Copy the folder again, whole.")
    return shards
