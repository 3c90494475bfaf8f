"""Checkpoints that nearly are SegFormer, SETR, SegViT or EoMT: refused with what is missing; and what trainers add is no hindrance."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tests.model.checkpoints.semantic_peers import peer_eomt, peer_segformer
from tests.model.checkpoints.test_convert_networks import VECTORS, mmseg_config_text, pretrained
from torch import Tensor

from proscale.checkpoints.convert import Converted, Request, convert
from proscale.cli import main
from proscale.errors import CheckpointError

NUMBERED = Request(labels="numbered")
AUXILIARY = {"auxiliary_head.0.conv_seg.bias": torch.zeros(2)}
State = dict[str, Tensor]


def same(state: State) -> State:
    return state


def without(*starts: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


def mmseg_file(tmp_path: Path, name: str, change: Callable[[State], State] = same, config: str | None = None) -> str:
    """Reference weights as a torch file, with or without a configuration beside them."""
    torch.save({"state_dict": change(load_file(VECTORS / f"{name}.weights.safetensors"))}, tmp_path / "net.pth")
    if config is not None:
        (tmp_path / "net.py").write_text(config)
    return str(tmp_path / "net.pth")


def config_of(name: str) -> str:
    return mmseg_config_text(json.loads((VECTORS / f"{name}.json").read_text()))


def test_a_setr_without_its_auxiliary_heads_needs_an_option(tmp_path: Path) -> None:
    source = mmseg_file(tmp_path, "setr_naive", config=config_of("setr_naive"))
    with pytest.raises(CheckpointError, match=r"lacks its auxiliary heads \(auxiliary_head.\*\).*--allow-missing-auxiliary"):
        convert(source, NUMBERED)
    arguments = ["convert", source, str(tmp_path / "out"), "--labels", "numbered"]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, (tmp_path / "out").exists()) == (1, False)
    taken = CliRunner().invoke(main, [*arguments, "--allow-missing-auxiliary"])
    assert taken.exit_code == 0, taken.output
    assert "auxiliary heads: none; they are for training alone" in taken.output
    whole = convert(mmseg_file(tmp_path, "setr_naive", lambda state: state | AUXILIARY, config_of("setr_naive")), NUMBERED)
    assert not any("auxiliary" in note for note in whole.notes)
    alone = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(alone[name], tensor.float()) for name, tensor in whole.state.items())


def test_a_configuration_may_say_that_there_are_none(tmp_path: Path) -> None:
    config = config_of("setr_naive").replace("test_cfg=", "auxiliary_head=None, test_cfg=")
    assert convert(mmseg_file(tmp_path, "setr_naive", config=config), NUMBERED).config.classes == 9


@pytest.mark.parametrize(
    ("name", "change", "config", "message"),
    [
        ("setr_naive", without("backbone.cls_token"), same, "backbone.cls_token is missing"),
        ("setr_naive", without("decode_head."), same, r"neither SETR's \(up_convs\) nor SegViT's \(q, decoder_1\); it has none"),
        ("setr_mla_slide", without("decode_head.up_convs.0."), same, "head.steps.0.0.conv.weight is missing"),
        (
            "setr_naive",
            same,
            lambda text: text + "model['decode_head'] = 1\nmodel = dict(decode_head=dict(num_classes=150))\n",
            "classes is 150",
        ),
        ("setr_naive", same, lambda text: text.replace("num_heads=", "num_layers=24, num_heads="), "backbone.layers is 24 there"),
        (
            "setr_naive",
            same,
            lambda text: text.replace("test_cfg=", "decode_head=dict(align_corners=True), test_cfg="),
            "align_corners=True",
        ),
        ("segvit_slide", without("decode_head.decoder_2."), same, "missing: head.stages.1.layers.0"),
        ("segformer_mmseg", same, lambda text: "model = dict(backbone=dict(num_layers=[3, 4, 6, 3]))", "backbone.depths is"),
        ("segformer_mmseg", same, lambda text: "model = dict(decode_head=dict(out_channels=1))", "one class and a sigmoid"),
    ],
    ids=["class token", "no head", "up", "classes", "layers", "corners", "decoder", "depths", "sigmoid"],
)
def test_mmsegmentation_configurations_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, change: Any, config: Any, message: str
) -> None:
    text = config(config_of(name) if "segformer" not in name else "")
    source = mmseg_file(tmp_path, name, lambda state: change(state | AUXILIARY), text)
    with pytest.raises(CheckpointError, match=message):
        convert(source, NUMBERED)


@pytest.mark.parametrize("dinov3", [False, True], ids=["dinov2", "dinov3"])
@pytest.mark.parametrize(
    ("lost", "changes", "message"),
    [
        ("query.", {}, "queries is missing"),
        ("upscale_block.", {}, r"upscale.0.\* missing"),
        ("mask_head.", {}, "missing: mask_head.0"),
        ("layers.3.", {}, "backbone.layers is 4 there, 3 in the weights"),
        ("layers.1.layer_scale1", {}, "missing: backbone.blocks.1.scale1"),
        ("-", {"patch_size": 14}, "patch_size is 14; only 16 is supported"),
        ("-", {"num_blocks": 3}, "query_blocks is 3 there, 2 in the weights"),
        ("-", {"hidden_size": 48}, "backbone.dim is 48 there, 24 in the weights"),
        ("-", {"id2label": {"0": "cell"}}, "names 1 classes, the weights have 5"),
        ("-", {"id2label": {str(i): None for i in range(5)}}, "nothing says what the 5 classes are"),
    ],
    ids=["queries", "upscale", "masks", "last layer", "scale", "patch", "blocks", "width", "few labels", "null labels"],
)
def test_eomt_configurations_that_do_not_fit_are_refused(
    tmp_path: Path, dinov3: bool, lost: str, changes: dict[str, Any], message: str
) -> None:
    folder = pretrained(tmp_path, peer_eomt(dinov3))
    save_file(without(lost)(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        convert(str(folder), Request() if "id2label" in changes else NUMBERED)


def test_eomt_of_another_patch_size_is_refused(tmp_path: Path) -> None:
    folder = pretrained(tmp_path, peer_eomt(patch_size=8))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="patches of 8x8 pixels; 16x16 is supported"):
        convert(str(folder), NUMBERED)


def test_blocks_with_queries_are_read_where_weights_do_not_show_them(tmp_path: Path) -> None:
    folder = pretrained(tmp_path, peer_eomt(num_blocks=1))
    save_file(without("attn_mask_probs")(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    assert convert(str(folder), NUMBERED).config.query_blocks == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": [2, 2, 2, 2]}, "backbone.depths is"),
        ({"hidden_sizes": [8, 16, 24, 40]}, "backbone.channels is"),
        ({"sr_ratios": [4, 4, 2, 1]}, "backbone.reductions is"),
        ({"decoder_hidden_size": 256}, "head.dim is 256 there, 12 in the weights"),
        ({"num_attention_heads": [3, 2, 3, 4]}, "cannot be shared by"),
        ({"model_type": "eomt"}, "describes a 'eomt' model"),
    ],
    ids=["depths", "channels", "reductions", "head", "heads", "type"],
)
def test_a_configuration_of_another_segformer_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = pretrained(tmp_path, peer_segformer())
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        convert(str(folder), NUMBERED)


def wrapped(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def with_averages(state: State) -> State:
    """As mmcv's EMAHook keeps them: buffers of the network whose names have no dots."""
    return state | {f"ema_{name.replace('.', '_')}": torch.zeros_like(tensor) for name, tensor in state.items()}


def with_colours(state: State) -> State:
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([40.0, 50.0, 60.0])
    return state | {"data_preprocessor.mean": mean.view(3, 1, 1), "data_preprocessor.std": std.view(3, 1, 1)}


@pytest.mark.parametrize(
    "change",
    [same, wrapped("module."), wrapped("model."), with_averages, with_colours],
    ids=["plain", "module", "model", "averages", "colours"],
)
def test_additions_of_trainers_are_removed(tmp_path: Path, change: Callable[[State], State]) -> None:
    expected = convert(str(VECTORS / "segformer_mmseg.weights.safetensors"), NUMBERED)
    found: Converted = convert(mmseg_file(tmp_path, "segformer_mmseg", change), NUMBERED)
    assert found.state.keys() == expected.state.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.state.items())
    if change is with_colours:
        assert found.config.preprocess.mean == (10.0, 20.0, 30.0)
