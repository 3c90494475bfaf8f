"""transformers' layout: both directions, names of every release, and nothing lost or invented."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.model.checkpoints.peer import SMALL_HEAD, TINY_RESNET, TINY_SWIN, load_peer, peer_network, save_peer

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.transformers_names import from_transformers, to_transformers
from proscale.checkpoints.write_folders import write, write_transformers
from proscale.errors import CheckpointError

BACKBONES = {"swin": TINY_SWIN, "resnet": TINY_RESNET}


@pytest.mark.parametrize("kind", BACKBONES)
def test_converting_to_transformers_and_back_is_identical(kind: str, tmp_path: Path) -> None:
    save_peer(peer_network(kind, BACKBONES[kind], SMALL_HEAD), tmp_path / "theirs")
    ours = convert(str(tmp_path / "theirs"), Request(labels="numbered"))
    write(ours, tmp_path / "ours")
    again = convert(str(tmp_path / "ours"), Request())
    write_transformers(again, tmp_path / "back")
    final = convert(str(tmp_path / "back"), Request(labels="numbered", name=ours.config.name))
    assert final.config == ours.config
    assert final.state.keys() == ours.state.keys()
    assert all(torch.equal(final.state[name], ours.state[name]) for name in ours.state)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "back"))
    assert before.keys() == after.keys()
    # What is not part of our network comes back as constants: the unused norm of a classifier, BatchNorm's counters.
    constant = ("swin.layernorm", "num_batches_tracked")
    assert all(torch.equal(before[name], after[name]) for name in before if not any(part in name for part in constant))


@pytest.mark.parametrize("kind", BACKBONES)
def test_written_folder_loads_in_transformers_to_the_same_logits(kind: str, tmp_path: Path) -> None:
    peer = peer_network(kind, BACKBONES[kind], SMALL_HEAD)
    save_peer(peer, tmp_path / "theirs")
    write_transformers(convert(str(tmp_path / "theirs"), Request(labels="numbered")), tmp_path / "back")
    loaded = load_peer(tmp_path / "back")
    pixels = torch.randn(1, 3, 128, 160)
    with torch.inference_mode():
        before, after = peer(pixel_values=pixels), loaded(pixel_values=pixels)
    assert torch.equal(before.class_queries_logits, after.class_queries_logits)
    assert torch.equal(before.masks_queries_logits, after.masks_queries_logits)
    assert loaded.config.id2label[3] == "class 3"


def test_names_in_memory_and_in_files_mean_the_same(tmp_path: Path) -> None:
    peer = peer_network("swin", TINY_SWIN, SMALL_HEAD)
    in_memory = dict(peer.state_dict())
    in_file = load_file(save_peer(peer, tmp_path) / "model.safetensors")
    assert in_memory.keys() != in_file.keys()
    first, second = from_transformers(in_memory), from_transformers(in_file)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert to_transformers(first).keys() == in_file.keys()


def test_sharded_folders_are_read(tmp_path: Path) -> None:
    peer = peer_network("resnet", TINY_RESNET, SMALL_HEAD)
    whole = convert(str(save_peer(peer, tmp_path / "whole")), Request(labels="numbered"))
    save_peer(peer, tmp_path / "shards", max_shard_size="500KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    shards = convert(str(tmp_path / "shards"), Request(labels="numbered"))
    assert all(torch.equal(whole.state[name], shards.state[name]) for name in whole.state)
    assert whole.provenance.sha256 != shards.provenance.sha256
    next((tmp_path / "shards").glob("*-00002-*")).unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002.*Copy the folder again"):
        convert(str(tmp_path / "shards"), Request(labels="numbered"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(extra=torch.ones(1)), r"1 names in the checkpoint are not known: extra"),
        (
            lambda state: state.pop("model.transformer_module.decoder.layers.1.self_attn.k_proj.bias"),
            r"lacks its companions: .*k_proj.bias",
        ),
        (lambda state: state.pop("model.pixel_level_module.decoder.mask_projection.bias"), r"missing: pixel_decoder.mask_projection.bias"),
        (lambda state: state.update({"class_predictor.bias": torch.ones(3)}), r"of another shape: .*class_head.bias is \(3,\)"),
    ],
)
def test_unknown_and_missing_names_are_refused(change: object, message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_peer(peer_network("swin", TINY_SWIN, SMALL_HEAD), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)  # type: ignore[operator]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        convert(str(tmp_path), Request(labels="numbered"))
