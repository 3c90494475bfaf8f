"""Converted models -> folders: ours, or transformers'."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from proscale.checkpoints.beside_transformers import save_beside
from proscale.checkpoints.convert import Converted
from proscale.checkpoints.eomt_names import to_transformers_eomt
from proscale.checkpoints.model_folder import WEIGHTS_FILE, save_folder, write_tensors
from proscale.checkpoints.provenance import save_provenance
from proscale.checkpoints.segformer_names import to_transformers_segformer
from proscale.checkpoints.transformers_config import PREPROCESSOR_FILE, preprocessor_config, transformers_config
from proscale.checkpoints.transformers_names import to_transformers
from proscale.checkpoints.transformers_networks import transformers_network
from proscale.config import EomtModelConfig, ModelConfig
from proscale.config_json import CONFIG_FILE


def write(converted: Converted, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder of ours; whole or not at all."""
    with ReplacedFolder(out) as folder:
        save_folder(folder, converted.config, converted.categories, converted.state, dtype)
        save_provenance(folder, converted.provenance)


def write_transformers(converted: Converted, out: Path) -> None:
    """Write a folder that `from_pretrained` of transformers' Mask2Former, SegFormer or EoMT loads; whole or not at all.

    Raises:
        CheckpointError: transformers has no such network.
    """
    config = converted.config
    if isinstance(config, ModelConfig):
        values, pixels = transformers_config(config, converted.categories), preprocessor_config(config)
    else:
        values, pixels = transformers_network(config, converted.categories)
    state = _as_float32(converted.state)
    if isinstance(config, ModelConfig):
        named = to_transformers(state)
    else:
        named = to_transformers_eomt(state, config) if isinstance(config, EomtModelConfig) else to_transformers_segformer(state)
    with ReplacedFolder(out) as folder:
        _write_json(folder / CONFIG_FILE, values)
        _write_json(folder / PREPROCESSOR_FILE, pixels)
        save_beside(folder, config, converted.categories, converted.provenance, pixels)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        write_tensors(tensors, folder / WEIGHTS_FILE, {"format": "pt"})


class ReplacedFolder:
    """A new folder that takes the place of `target` when all has been written, and leaves nothing when it has not."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent))
        self.folder.chmod(0o755)
        return self.folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for file in self.folder.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone; a server often runs as somebody else
        if self.target.exists():
            # A server may have the old weights mapped: its files are moved away whole, never written into.
            retired = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent))
            os.rename(self.target, retired / "old")
            os.rename(self.folder, self.target)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(self.folder, self.target)


def _as_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
