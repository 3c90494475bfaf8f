"""SegViT Shrunk through conversion: what torch's own layers compute, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.model.checkpoints.shrunk_peer import CLASSES, CONFIG, CROP, SHRINK, TAPS, peer_shrunk

from proscale.any_network import build_network
from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.model_folder import load_folder
from proscale.checkpoints.strict_loading import load_strictly
from proscale.checkpoints.write_folders import write
from proscale.config import SegvitHeadConfig, SemanticModelConfig, SlideConfig, VitConfig
from proscale.errors import CheckpointError
from proscale.predictions import QueryPrediction, WindowPrediction
from proscale.semantic_network import SemanticNetwork

NUMBERED = Request(labels="numbered")
TOLERANCE = 3e-5


def saved(tmp_path: Path, config: str = CONFIG, change: Any = None) -> Path:
    state = peer_shrunk().state_dict()
    if change is not None:
        change(state)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "shrunk.pth")
    (tmp_path / "shrunk.py").write_text(config)
    return tmp_path / "shrunk.pth"


def loaded(folder: Path) -> SemanticNetwork:
    config, _, state = load_folder(folder)
    network = build_network(config).eval()
    load_strictly(network, state)
    assert isinstance(network, SemanticNetwork)
    return network


def test_it_computes_what_torchs_layers_compute(tmp_path: Path) -> None:
    converted = convert(str(saved(tmp_path)), NUMBERED)
    config = converted.config
    assert isinstance(config, SemanticModelConfig)
    assert isinstance(config.backbone, VitConfig)
    assert (config.backbone.shrink, config.backbone.taps, config.classes) == (SHRINK, TAPS, CLASSES)
    assert config.head == SegvitHeadConfig(16, 2, 2, (5, 5))
    assert config.slide == SlideConfig((CROP, CROP), (60, 60))
    assert config.name == "SegViT Shrunk shrunk"
    write(converted, tmp_path / "ours")
    network = loaded(tmp_path / "ours")
    assert network.config == config
    images = torch.randn(1, 3, CROP, CROP)
    with torch.no_grad():
        classes, masks = peer_shrunk()(images)
        for said in (network(images), network.predict(images)):
            assert isinstance(said, QueryPrediction)
            torch.testing.assert_close(said.class_logits, classes, rtol=0, atol=TOLERANCE)
            torch.testing.assert_close(said.mask_logits, masks, rtol=0, atol=TOLERANCE)
        windows = network.predict(torch.cat([images, torch.zeros(1, 3, CROP, 60)], 3))
    assert isinstance(windows, WindowPrediction)
    assert windows.places == ((0, 0), (0, 60))
    torch.testing.assert_close(windows.windows.mask_logits[:1], masks, rtol=0, atol=TOLERANCE)


def test_another_shrinking_block_is_noticed(tmp_path: Path) -> None:
    write(convert(str(saved(tmp_path, CONFIG.replace(f"shrink_idx={SHRINK}", "shrink_idx=3"))), NUMBERED), tmp_path / "ours")
    images = torch.randn(1, 3, CROP, CROP)
    with torch.no_grad():
        said = loaded(tmp_path / "ours").predict(images)
        assert isinstance(said, QueryPrediction)
        assert (said.mask_logits - peer_shrunk()(images)[1]).abs().max() > 100 * TOLERANCE


def lost_query(state: dict[str, torch.Tensor]) -> None:
    state["decode_head.q.weight"] = state["decode_head.q.weight"][1:]


def lost_attention(state: dict[str, torch.Tensor]) -> None:
    del state["decode_head.decoder_2.layers.1.multihead_attn.in_proj_weight"]


def foreign(state: dict[str, torch.Tensor]) -> None:
    state["decode_head.edge_predictor.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CONFIG.replace(f"shrink_idx={SHRINK},", ""), None, "nothing says which of the 5 blocks shrinks"),
        (CONFIG.replace(f"shrink_idx={SHRINK}", "shrink_idx=9"), None, "says 9, but that is not which of the 5 blocks shrinks"),
        (
            CONFIG.replace("crop_size = (80, 80)", "crop_size = (64, 64)"),
            None,
            r"windows of \(64, 64\); the 25 learnt queries are for \(80, 80\)",
        ),
        (CONFIG.replace("with_cls_token=False", "with_cls_token=True"), None, "tokens of patches alone"),
        (CONFIG, lost_query, "24 is no square number"),
        (CONFIG, lost_attention, "missing: head.stages.1.layers.1.cross_attention.key.weight"),
        (CONFIG, foreign, "decode_head.edge_predictor.weight"),
    ],
    ids=["no block", "block 9", "windows", "class token", "queries", "attention", "edge-aware"],
)
def test_similar_but_different_networks_are_refused(tmp_path: Path, config: str, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(str(saved(tmp_path, config, change)), NUMBERED)


def test_model_folders_of_other_networks_are_unchanged(tmp_path: Path) -> None:
    """Fields that only Shrunk has are written for Shrunk alone, so that older versions read the rest."""
    write(convert(str(saved(tmp_path)), NUMBERED), tmp_path / "ours")
    values = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (values["backbone"]["shrink"], values["head"]["query_grid"]) == (SHRINK, [5, 5])
    assert set(load_file(tmp_path / "ours" / "model.safetensors")) == set(loaded(tmp_path / "ours").state_dict())
