"""SegFormer and EoMT from transformers to our folder and back: the files beside the weights say what they said before."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.model.checkpoints.semantic_peers import peer_eomt, peer_segformer
from tests.model.checkpoints.test_convert_networks import NUMBERED, assert_same, pretrained, there_and_back
from transformers import EomtImageProcessor, SegformerImageProcessor
from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentation

from proscale.checkpoints.convert import convert
from proscale.checkpoints.write_folders import write_transformers
from proscale.errors import CheckpointError

SQUEEZED = {"height": 96, "width": 64}
EOMT_SIZE = {"shortest_edge": 64, "longest_edge": 64}


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param({"size": SQUEEZED}, id="squeezed"),
        pytest.param({"size": SQUEEZED, "resample": 3}, id="bicubic"),
        pytest.param({"size": SQUEEZED, "image_mean": [0.48, 0.45, 0.4], "image_std": [0.229, 0.224, 0.225]}, id="colours"),
        pytest.param({"do_resize": False}, id="own size"),
    ],
)
def test_a_segformers_pictures_are_prepared_as_before(tmp_path: Path, pixels: dict[str, Any]) -> None:
    processor = SegformerImageProcessor(**pixels)
    there_and_back(convert(str(pretrained(tmp_path, peer_segformer(), processor)), NUMBERED), tmp_path)
    assert_same_pixels(tmp_path, "do_resize", "resample", "image_mean", "image_std", *["size"] * ("size" in pixels))


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param({"size": EOMT_SIZE, "do_pad": True}, id="padded"),
        pytest.param({"size": EOMT_SIZE, "do_pad": True, "resample": 1}, id="lanczos"),
        pytest.param({"size": EOMT_SIZE, "do_resize": False, "do_pad": False}, id="own size"),
    ],
)
def test_an_eomts_pictures_are_prepared_as_before(tmp_path: Path, pixels: dict[str, Any]) -> None:
    there_and_back(convert(str(pretrained(tmp_path, peer_eomt(), EomtImageProcessor(**pixels))), NUMBERED), tmp_path)
    assert_same_pixels(tmp_path, "do_resize", "resample", "image_mean", "image_std", "size", "do_pad")


def assert_same_pixels(tmp_path: Path, *names: str) -> None:
    before, after = (json.loads((tmp_path / folder / "preprocessor_config.json").read_text()) for folder in ("peer", "theirs"))
    assert {name: after[name] for name in names} == {name: before[name] for name in names}


@pytest.mark.parametrize("ratio", [2, 3, 4])
@pytest.mark.parametrize("gated", [False, True], ids=["GELU", "SwiGLU"])
def test_an_eomts_mlp_has_the_width_that_transformers_makes(tmp_path: Path, gated: bool, ratio: int) -> None:
    peer = peer_eomt(use_swiglu_ffn=gated, mlp_ratio=ratio)
    assert_same(there_and_back(convert(str(pretrained(tmp_path, peer)), NUMBERED), tmp_path), peer)
    assert_same(EomtForUniversalSegmentation.from_pretrained(tmp_path / "theirs").state_dict(), peer)


@pytest.mark.parametrize("gated", [False, True], ids=["GELU", "SwiGLU"])
def test_an_mlp_that_transformers_cannot_make_is_refused(tmp_path: Path, gated: bool) -> None:
    peer = peer_eomt(use_swiglu_ffn=gated)
    mlps = [layer.mlp for layer in peer.layers]
    for mlp in mlps:
        for name in ("gate_proj", "up_proj") if gated else ("fc1",):
            linear = getattr(mlp, name)
            linear.weight.data, linear.bias.data = linear.weight.data[:-5].clone(), linear.bias.data[:-5].clone()
        last = mlp.down_proj if gated else mlp.fc2
        last.weight.data = last.weight.data[:, :-5].clone()
    converted = convert(str(pretrained(tmp_path, peer)), NUMBERED)
    with pytest.raises(CheckpointError, match="of its 24 channels, not"):
        write_transformers(converted, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
