"""torch.compile for known sizes: the same answers, nothing compiled for anything else, and a clear word where it cannot be."""

import copy
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG
from tests.model.heads.test_folding import randomise

from proscale.any_network import Network, build_network
from proscale.checkpoints.model_folder import save_folder
from proscale.compiled import CompiledNetwork
from proscale.config import EomtModelConfig, PostprocessConfig, PreprocessConfig, VitConfig
from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

TASKS = SegmentationOptions(("panoptic", "instance", "semantic"))
FEW_KERNELS = EomtModelConfig(
    "eomt",
    5,
    VitConfig(24, 4, 2, 40, grid=(4, 4), position="bicubic", class_token=True, registers=2, final_norm=True),
    7,
    1,
    preprocess=PreprocessConfig(64, 128),
    postprocess=PostprocessConfig(threshold=0.05, overlap_threshold=0.0, instance_threshold=0.02),
)
"""Compiling takes a second per kernel, and this network has a third of those of PRO-SCALE's."""
needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def network() -> Network:
    """A network of FEW_KERNELS."""
    made = build_network(FEW_KERNELS).eval()
    randomise(made)
    return made


@pytest.fixture(scope="module")
def plain(network: Network) -> Predictor:
    """A predictor of it."""
    return Predictor(copy.deepcopy(network), SMALL_CATEGORIES)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_a_compiled_size_gets_the_same_answers_and_no_other_is_compiled(network: Network, plain: Predictor, picture: np.ndarray) -> None:
    from torch._dynamo.utils import counters

    predictor = Predictor(copy.deepcopy(network), SMALL_CATEGORIES, compile_for=[picture.shape[:2]])
    counters.clear()
    turned = picture.transpose(1, 0, 2)
    for pictures in ([picture], [np.roll(picture, 5 * i, axis=1) for i in range(3)], [turned]):
        options = [TASKS] * len(pictures)
        for ours, theirs in zip(predictor.segment(pictures, options), plain.segment(pictures, options), strict=True):
            for task, result in theirs.results.items():
                assert [segment.label for segment in ours.results[task].segments] == [segment.label for segment in result.segments]
                scores = [[segment.score for segment in each.segments] for each in (ours.results[task], result)]
                assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    images = torch.rand(2, 3, *plain.plan(*picture.shape[:2]).padded)
    with torch.inference_mode():
        ours, theirs = predictor._predict(images), plain.network.predict(images)  # type: ignore[assignment]
    assert torch.allclose(ours.mask_logits, theirs.mask_logits, atol=1e-3)  # type: ignore[attr-defined]
    assert not torch.equal(ours.mask_logits, theirs.mask_logits)  # type: ignore[attr-defined]  # it was not merely run as ever
    assert not counters["stats"]["unique_graphs"]
    with torch.no_grad():  # weights are constants of the compiled code
        predictor.network.class_head.weight.zero_()  # type: ignore[operator]
    with torch.inference_mode():
        assert torch.equal(predictor._predict(images).class_logits, ours.class_logits)  # type: ignore[attr-defined]
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_proscales_network_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced as ever, and no code is made of it
    images, network = torch.rand(2, 3, 96, 128), SegmentationNetwork(SMALL_CONFIG).eval()
    ours = CompiledNetwork(network, [(96, 128)]).predict(images)
    with torch.inference_mode():
        alone = [network.predict(image[None]) for image in images]
    assert torch.equal(ours.mask_logits, torch.cat([each.mask_logits for each in alone]))
    torch.compiler.reset()


def test_the_network_is_not_compiled_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proscale.predictor._device", lambda name: torch.device("meta"))
    with pytest.raises(CheckpointError, match="CUDA graphs do as much"):
        Predictor(SegmentationNetwork(SMALL_CONFIG), SMALL_CATEGORIES, compile_for=[(60, 80)])


@pytest.mark.slow
def test_without_a_compiler_the_error_names_the_remedy(network: Network, tmp_path: Path) -> None:
    save_folder(tmp_path / "model", FEW_KERNELS, SMALL_CATEGORIES, network.state_dict())
    code = f"from proscale.predictor import Predictor; Predictor.load({str(tmp_path / 'model')!r}, compile_for=[(60, 80)])"
    environment = os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "CheckpointError: the network cannot be compiled for 64x96" in done.stderr
    assert "g++" in done.stderr
