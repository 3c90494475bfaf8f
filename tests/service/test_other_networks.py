"""EoMT, SegFormer, SETR and SegViT behind the server and the commands: tasks, windows, cost, refusals, metrics, the worker."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.model.heads.test_folding import CONFIGS, randomise

from proscale import wire
from proscale.any_network import build_network
from proscale.checkpoints.model_folder import save_folder
from proscale.cli import main
from proscale.config import (
    EomtModelConfig,
    NetworkConfig,
    PostprocessConfig,
    PreprocessConfig,
    SemanticModelConfig,
    SlideConfig,
    VitConfig,
)
from proscale.config_json import config_from_json, config_to_json
from proscale.geometry import pad_picture, padded_size, resize_picture
from proscale.labels import Category
from proscale.network_flops import count_baseline, count_network
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.triton_worker import Request, Worker
from proscale_service.client import Client
from proscale_service.engines.in_process import InProcessEngine

from .serving import http, metric, serving

CATEGORIES = tuple(Category(i, name, i < 2) for i, name in enumerate(("cat", "dog", "grass", "sky", "road")))
EXACT = PreprocessConfig(32, 256, size_divisor=1, align="none")
PADDED = PreprocessConfig(64, 64, pad_to=(64, 64), padding="black")
WINDOWS = SlideConfig((32, 32), (20, 20))
VIT = VitConfig(24, 4, 3, 40, grid=(4, 4), position="bicubic", class_token=True, registers=2, final_norm=True)


def semantic(name: str, slide: SlideConfig | None = None, preprocess: PreprocessConfig = EXACT) -> SemanticModelConfig:
    twice = PostprocessConfig(resize_twice=name.startswith("setr"))
    return replace(CONFIGS[name], name=name, slide=slide, preprocess=preprocess, postprocess=twice)


NETWORKS: dict[str, NetworkConfig] = {
    "segformer": semantic("segformer linear", None, PreprocessConfig(64, 256, align="stretch")),
    "segformer exact": semantic("segformer conv", None, PreprocessConfig(size=(64, 96), align="stretch")),
    "segformer windows": semantic("segformer linear", WINDOWS),
    "setr": semantic("setr pup", WINDOWS),
    "setr mla": semantic("setr mla"),
    "segvit": semantic("segvit", WINDOWS),
    "segvit whole": semantic("segvit"),
    "segvit shrunk": semantic("segvit shrunk", SlideConfig((48, 80), (40, 60))),
    "eomt": EomtModelConfig(
        "eomt",
        5,
        VIT,
        7,
        2,
        preprocess=PreprocessConfig(64, 64, pad_to=(64, 64), padding="black"),
        postprocess=PostprocessConfig(threshold=0.05),
    ),
    "eomt windows": EomtModelConfig("eomt windows", 5, VIT, 7, 2, slide=SlideConfig((32, 32)), preprocess=EXACT),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    for name, config in NETWORKS.items():
        network = build_network(config)
        randomise(network)
        save_folder(root / name, config, CATEGORIES, network.state_dict())
    return {name: root / name for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_configurations_survive_json(name: str) -> None:
    assert config_from_json(config_to_json(NETWORKS[name])) == NETWORKS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_served(folders: dict[str, Path], name: str, picture: np.ndarray) -> None:
    config = NETWORKS[name]
    with serving(InProcessEngine, checkpoint=folders[name], threads=1, warmup="40x60") as running:
        (model,) = http.get(f"{running.url}/models").json()["models"]
        with Client(running.url) as client:
            answer = client.segment(picture)
            refused = http.post(f"{running.url}/segment", files={"image": b"x"}, data={"task": "panoptic"})
        plan = http.post(f"{running.url}/segment/plan?width=200&height=100").json()
        spent = metric(running.url, f'proscale_flops_total{{encoder="{model["encoder"]}"}}')
    assert model["tasks"] == list(config.tasks)
    assert tuple(answer.results) == config.tasks[:1]
    height, width = picture.shape[:2]
    if config.tasks == ("semantic",):
        assert sum(segment.area for segment in answer.segments) == height * width
        assert refused.status_code == 422
        assert "does semantic segmentation only, not panoptic" in refused.json()["detail"]
        assert "PRO-SCALE, Mask2Former" in refused.json()["detail"]
    else:
        assert refused.status_code != 422 or "segmentation only" not in refused.text
    assert plan["compute"]["baseline"] == "the network as published"
    assert plan["tasks"] == [config.tasks[0]]
    padded = tuple(plan["compute"]["padded_size"])
    assert plan["compute"]["flops"] == count_network(config, padded, (100, 200), config.tasks[:1]).total
    assert plan["compute"]["baseline_flops"] == count_baseline(config, padded, (100, 200), config.tasks[:1]).total
    assert spent > 0
    (direct,) = Predictor.load(folders[name]).segment([picture], [SegmentationOptions(config.tasks[:1])])
    expected = direct.results[config.tasks[0]].segments
    assert [(s.category_id, s.segmentation) for s in answer.segments] == [(s.category_id, s.segmentation) for s in expected]


@pytest.mark.slow
def test_one_server_serves_all_kinds(folders: dict[str, Path], small_checkpoint: Path, picture: np.ndarray) -> None:
    """`model` picks among them; tasks, cost and metrics are each model's own."""
    names = {"pro": small_checkpoint} | {name.replace(" ", "-"): folders[name] for name in ("segformer", "setr", "segvit shrunk", "eomt")}
    models = ",".join(f"{name}={folder}" for name, folder in names.items())
    with serving(InProcessEngine, models=models, threads=1) as running:
        listed = {model["name"]: model for model in http.get(f"{running.url}/models").json()["models"]}
        assert list(listed) == list(names)
        for name, folder in names.items():
            predictor = Predictor.load(folder)
            task = predictor.config.tasks[0]
            with Client(running.url) as client:
                answer = client.segment(picture, model=name)
            assert tuple(answer.results) == (task,)
            (direct,) = predictor.segment([picture], [SegmentationOptions((task,))])
            found = [(segment.category_id, segment.segmentation) for segment in answer.segments]
            assert found == [(segment.category_id, segment.segmentation) for segment in direct.results[task].segments]
            plan = http.post(f"{running.url}/segment/plan?width=80&height=60&model={name}").json()
            assert plan["compute"]["flops"] == predictor.plan(60, 80, (task,)).flops
            assert metric(running.url, f'proscale_model_flops_total{{model="{name}"}}') == predictor.plan(60, 80, (task,)).flops
            assert listed[name]["tasks"] == list(predictor.config.tasks)
        refused = http.post(f"{running.url}/segment?model=segformer&task=panoptic", files={"image": b"x"})
        assert refused.status_code == 422
        assert "does semantic segmentation only, not panoptic" in refused.json()["detail"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_worker_and_the_gateway_agree(folders: dict[str, Path], name: str, picture: np.ndarray) -> None:
    predictor = Predictor.load(folders[name])
    worker = Worker(predictor, "abc")
    described = next(iter(worker.handle([Request(np.zeros((8, 8, 3), np.uint8), (8, 8, 8, 8), wire.DESCRIBE.encode())])))[1]
    description = wire.description_from_json(described.text)
    assert description.info.tasks == NETWORKS[name].tasks
    config = config_from_json(description.config)
    resized = resize_picture(picture, config.preprocess)
    pixels = pad_picture(resized.pixels, padded_size(resized.pixels.shape[0], resized.pixels.shape[1], config.preprocess))
    options = wire.options_to_json(SegmentationOptions(config.tasks[:1]))
    sizes = (resized.pixels.shape[0], resized.pixels.shape[1], *resized.output_size)
    reply = next(iter(worker.handle([Request(pixels, sizes, options.encode())])))[1]
    answer = wire.prediction_from_json(reply.text, resized.output_size, predictor.plan(*resized.output_size))
    (direct,) = predictor.segment([picture], [SegmentationOptions(config.tasks[:1])])
    assert answer.prediction.results == direct.results


@pytest.mark.parametrize("name", ["segformer", "setr", "segvit", "eomt windows"])
def test_pictures_in_a_batch_get_the_results_they_get_alone(folders: dict[str, Path], name: str, picture: np.ndarray) -> None:
    predictor = Predictor.load(folders[name])
    options = [SegmentationOptions(("semantic",))] * 2
    pictures = [picture, np.roll(picture, 17, 1)]
    together = predictor.segment(pictures, options)
    alone = [predictor.segment([each], options[:1])[0] for each in pictures]
    for one, other in zip(together, alone, strict=True):
        masks = [[segment.segmentation for segment in each.results["semantic"].segments] for each in (one, other)]
        assert masks[0] == masks[1]


@pytest.mark.parametrize("size", [(3, 400), (500, 4), (1, 1), (37, 61)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_odd_pictures(folders: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    predictor = Predictor.load(folders[name])
    (prediction,) = predictor.segment([rng.integers(0, 256, (*size, 3), np.uint8)], [SegmentationOptions(("semantic",))])
    assert sum(segment.area for segment in prediction.results["semantic"].segments) == size[0] * size[1]


def test_bfloat16_keeps_most_pixels(folders: dict[str, Path], picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the processor has no such products they are emulated: slow, but the same.
    monkeypatch.setattr("proscale.precision.cpu_bfloat16", lambda: (True, "for the test"))
    maps = list[dict[str, int]]()
    for precision in ("float32", "bfloat16"):
        predictor = Predictor.load(folders["segformer"], precision=precision)
        (prediction,) = predictor.segment([picture], [SegmentationOptions(("semantic",))])
        maps.append({segment.label: segment.area for segment in prediction.results["semantic"].segments})
    assert (
        sum(abs(maps[0].get(label, 0) - maps[1].get(label, 0)) for label in maps[0] | maps[1]) < 0.2 * picture.shape[0] * picture.shape[1]
    )


@pytest.fixture
def photo(tmp_path: Path, picture: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_commands_know_the_tasks(folders: dict[str, Path], photo: Path) -> None:
    checkpoint = ["--checkpoint", str(folders["segformer"])]
    result = CliRunner().invoke(main, ["segment", str(photo), *checkpoint])
    assert result.exit_code == 0, result.output
    refused = CliRunner().invoke(main, ["segment", str(photo), "--task", "instance", *checkpoint])
    assert refused.exit_code == 1
    assert "does semantic segmentation only, not instance" in refused.output


def test_labels_that_do_not_fit_the_classes(folders: dict[str, Path]) -> None:
    from proscale.errors import CheckpointError

    with pytest.raises(CheckpointError, match="4 categories for 5 classes"):
        Predictor(build_network(NETWORKS["setr"]), CATEGORIES[:4])


def test_wide_class_maps_are_made_in_strips(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that do not fit at once give the same segments."""
    from proscale.postprocess import class_map

    picture = np.random.default_rng(2).integers(0, 256, (70, 90, 3), np.uint8)
    for name in ("segformer", "setr", "segvit"):
        predictor = Predictor.load(folders[name])
        whole = predictor.segment([picture], [SegmentationOptions(("semantic",))])[0].results
        with monkeypatch.context() as patch:
            patch.setattr(class_map, "STRIP_VALUES", 5 * 90 * 4)
            parts = predictor.segment([picture], [SegmentationOptions(("semantic",))])[0].results
        a, b = ({segment.label: segment.area for segment in results["semantic"].segments} for results in (whole, parts))
        assert sum(abs(a.get(label, 0) - b.get(label, 0)) for label in a | b) <= 4  # ties
    assert torch.is_grad_enabled()
