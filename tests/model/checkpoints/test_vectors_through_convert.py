"""Reference networks go through conversion in every form that checkpoints have, and still give their reference outputs."""

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity import check_vectors

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.detectron2_names import to_detectron2
from proscale.checkpoints.model_folder import load_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.write_folders import write

VECTORS = Path(__file__).parents[2] / "parity" / "vectors"
CASES = sorted(VECTORS.glob("*.json"))
Maker = Callable[[dict[str, torch.Tensor], Path], Path]


def as_safetensors(state: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def as_torch(state: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save({"model": state, "iteration": 1, "optimizer": {"state": {}}}, folder / "model.pth")
    return folder / "model.pth"


def as_pickle(state: dict[str, torch.Tensor], folder: Path) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    (folder / "model.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "us", "matching_heuristics": True}, protocol=2))
    return folder / "model.pkl"


@pytest.mark.parametrize("make", [as_safetensors, as_torch, as_pickle])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_converted_checkpoints_reproduce_the_reference_outputs(path: Path, make: Maker, tmp_path: Path) -> None:
    case = json.loads(path.read_text())
    source = make(load_file(path.with_suffix(".weights.safetensors")), tmp_path)
    request = Request(labels="numbered", temperature=case["excite_temperature"], residual=case["residual"])
    write(convert(str(source), request), tmp_path / "ours")
    config, _, state = load_folder(tmp_path / "ours")
    # What was recognised is what the case says, and what was written is what it computes with.
    expected = check_vectors.model_config(case, path.stem)
    for part in ("classes", "backbone", "pixel_decoder", "transformer_decoder"):
        assert getattr(config, part) == getattr(expected, part), part
    origin = load_provenance(tmp_path / "ours")
    assert origin is not None
    assert asdict(origin) | {"sha256": ""} == {"name": source.name, "sha256": "", "layout": "detectron2", "changes": ()}
    copy = tmp_path / "case"
    copy.mkdir()
    (copy / path.name).write_text(path.read_text())
    save_file(to_detectron2(state), copy / f"{path.stem}.weights.safetensors")
    (copy / f"{path.stem}.tensors.safetensors").symlink_to(path.with_suffix(".tensors.safetensors").resolve())
    report = check_vectors.check_network(copy / path.name)
    assert not report.failed, "\n".join(report.lines)


def test_older_names_of_transformers_are_converted(tmp_path: Path) -> None:
    path = next(path for path in CASES if path.stem == "mask2former_swin_6")
    state = load_file(path.with_suffix(".weights.safetensors"))
    older = {
        name.replace("predictor.query_feat.", "predictor.static_query.").replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): tensor
        for name, tensor in state.items()
    }
    assert len(older.keys() - state.keys()) > 20
    old, new = (convert(str(as_pickle(tensors, tmp_path)), Request(labels="numbered")) for tensors in (older, state))
    assert old.config == new.config
    assert all(torch.equal(old.state[name], new.state[name]) for name in new.state)
