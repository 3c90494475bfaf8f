"""`proscale convert --order`: classes move with their rows, and answers stay what they were."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network

from proscale.checkpoints.command import convert
from proscale.checkpoints.model_folder import load_folder, save_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.labels import Category
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose cats are connected."""
    config = replace(SMALL_CONFIG, postprocess=replace(SMALL_CONFIG.postprocess, threshold=0.0, overlap_threshold=0.0, connected=("cat",)))
    save_folder(tmp_path / "model", config, SMALL_CATEGORIES, small_network().state_dict())
    return tmp_path / "model"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(convert, [str(argument) for argument in arguments])


def answers(folder: Path) -> list[tuple[str, float, int]]:
    """Label, score and area of every segment."""
    predictor = Predictor.load(folder)
    result = predictor.segment([PICTURE], [SegmentationOptions(("panoptic",))])[0].results["panoptic"]
    return sorted((segment.label, round(segment.score, 5), segment.area) for segment in result.segments)


def test_rows_ids_and_kinds_go_with_the_names(folder: Path, tmp_path: Path) -> None:
    wanted = [Category(50 + i, category.name.upper(), not category.isthing) for i, category in enumerate(reversed(SMALL_CATEGORIES))]
    file = tmp_path / "order.json"
    file.write_text(json.dumps([asdict(category) for category in wanted]))
    done = run(folder, tmp_path / "out", "--order", file)
    assert done.exit_code == 0, done.output
    assert "classes put in the order of order.json" in done.output
    config, categories, state = load_folder(tmp_path / "out")
    assert list(categories) == wanted
    assert config.postprocess.connected == ("CAT",)
    before = small_network().state_dict()
    for leaf in ("weight", "bias"):
        name = f"transformer_decoder.class_head.{leaf}"
        assert torch.equal(state[name][:-1].flip(0), before[name][:-1])
        assert torch.equal(state[name][-1], before[name][-1])
    source = load_provenance(tmp_path / "out")
    assert source is not None
    assert source.changes == ("classes put in the order of order.json",)


def test_a_list_of_names_moves_classes_and_changes_no_answer(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "order.txt"
    file.write_text("\n".join(f" {category.name.upper()}" for category in SMALL_CATEGORIES[2:] + SMALL_CATEGORIES[:2]))
    assert run(folder, tmp_path / "out", "--order", file).exit_code == 0
    assert load_folder(tmp_path / "out")[1] == SMALL_CATEGORIES[2:] + SMALL_CATEGORIES[:2]
    expected = answers(folder)
    assert len(expected) > 1
    assert answers(tmp_path / "out") == expected


def test_other_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "order.txt"
    file.write_text("\n".join([*(category.name for category in SMALL_CATEGORIES[1:]), "horse"]))
    done = run(folder, tmp_path / "out", "--order", file)
    assert done.exit_code == 1
    assert f"it names 'horse', which the model lacks; it lacks {SMALL_CATEGORIES[0].name!r} of the model" in done.output
    assert not (tmp_path / "out").exists()
    assert "neither a file nor one of ade20k" in run(folder, tmp_path / "out", "--order", "nowhere").output


def test_a_rule_goes_with_a_class_that_is_renamed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    names = [asdict(replace(category, name=f"my {category.name}")) for category in SMALL_CATEGORIES]
    file.write_text(json.dumps(names))
    assert run(folder, tmp_path / "out", "--labels", file).exit_code == 0
    assert load_folder(tmp_path / "out")[0].postprocess.connected == ("my cat",)
