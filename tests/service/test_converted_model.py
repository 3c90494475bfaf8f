"""A published layout, converted by the command, served over HTTP: its labels, its category ids, where it came from, the same masks."""

import hashlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from proscale.checkpoints.detectron2_names import to_detectron2
from proscale.cli import main
from proscale.config import ModelConfig, PixelDecoderConfig, ProScaleEncoderConfig, ResNetConfig, TransformerDecoderConfig
from proscale.labels import label_table
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale_service.client import Client
from proscale_service.engines.in_process import InProcessEngine

from .serving import serving

COCO_LAYOUT = ModelConfig(
    name="as published",
    classes=133,
    backbone=ResNetConfig(8, 16, 4, (1, 1, 1, 1)),
    pixel_decoder=PixelDecoderConfig(ProScaleEncoderConfig((1, 1, 1)), hidden_dim=64, ffn_dim=32),
    transformer_decoder=TransformerDecoderConfig(layers=3, queries=10, ffn_dim=32),
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint file in detectron2's layout, and the folder that `proscale convert` made of it."""
    folder = tmp_path_factory.mktemp("converted")
    file, out = folder / "model_final.pth", folder / "coco"
    network = SegmentationNetwork(COCO_LAYOUT)
    with torch.no_grad():
        network.transformer_decoder.class_head.weight.mul_(8)
    torch.save({"model": to_detectron2(network.state_dict())}, file)
    result = CliRunner().invoke(main, ["convert", str(file), str(out)])
    assert result.exit_code == 0, result.output
    return file, out


def test_a_converted_checkpoint_serves(converted: tuple[Path, Path], picture: np.ndarray) -> None:
    file, folder = converted
    with serving(InProcessEngine, checkpoint=folder, threads=1, warmup="") as running:
        (model,) = httpx.get(f"{running.url}/models").json()["models"]
        with Client(running.url) as client:
            answer = client.segment(picture, task="semantic")
    table = label_table("coco_panoptic").categories
    assert [(c["id"], c["name"], c["isthing"]) for c in model["categories"]] == [(c.id, c.name, c.isthing) for c in table]
    assert model["categories"][0] == {"id": 1, "name": "person", "isthing": True}
    assert model["categories"][-1]["id"] == 200
    assert model["origin"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model["origin"]["layout"] == "detectron2"
    (prediction,) = Predictor.load(folder).segment([picture], [SegmentationOptions(("semantic",))])
    expected = prediction.results["semantic"].segments
    assert [(s.category_id, s.segmentation) for s in answer.segments] == [(s.category_id, s.segmentation) for s in expected]
