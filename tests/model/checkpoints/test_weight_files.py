"""Files -> named tensors, decided by content."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from proscale.checkpoints.weight_files import find_files, read_checkpoint, sha256
from proscale.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("nesting", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_are_read(nesting: str | None, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    torch.save(state if nesting is None else {nesting: state, "iteration": 7, "optimizer": {"lr": 0.1}}, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth").state
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_the_file_name_does_not_matter(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.pkl")
    torch.save(STATE, tmp_path / "x.safetensors")
    for name in ("x.pkl", "x.safetensors"):
        assert torch.equal(read_checkpoint(tmp_path / name).state["a.weight"], STATE["a.weight"])


def test_the_hash_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert sha256(find_files(tmp_path)) == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()


def test_unusable_files_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        read_checkpoint(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="it holds no such file"):
        read_checkpoint(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"it holds a.pth, b.pth"):
        read_checkpoint(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes((tmp_path / "b.pth").read_bytes()[:300])
    with pytest.raises(CheckpointError, match="is refused"):
        read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "p.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_checkpoint(tmp_path / "p.pth")
    save_file(STATE, tmp_path / "s.safetensors")
    whole = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "s.safetensors").write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_checkpoint(tmp_path / "s.safetensors")


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(STATE, tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"lacks secret.safetensors"):
        read_checkpoint(folder)


def test_arrays_that_are_not_in_order_keep_their_values(tmp_path: Path) -> None:
    import pickle

    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"w": array}}))
    assert torch.equal(read_checkpoint(tmp_path / "x.pkl").state["w"], torch.tensor(array.copy()))
