"""`proscale train` on data sets as they come: their classes alone, weights by name, figures and pictures on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network
from tests.miniature import save_ids, save_picture, write_json

from proscale.checkpoints.model_folder import load_folder, save_folder
from proscale.checkpoints.provenance import load_provenance, save_provenance
from proscale.cli import main
from proscale.config_json import config_to_json
from proscale.labels import Category, label_table
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import Provenance
from proscale.training.run_state import STATE_FILE

IDS = (("sky", 21, 0), ("grass", 7, 0), ("cat", 0, 1))


def write_data(root: Path, names: tuple[tuple[str, int, int], ...] = IDS) -> Path:
    """Four pictures, `train` and `val` alike: the first class above, the second below, the third in the middle."""
    ids = np.full((64, 64), 1)
    ids[32:] = 2
    ids[20:44, 20:44] = 3
    segments = [{"id": i + 1, "category_id": category} for i, (_, category, _) in enumerate(names)]
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
        for i in range(4):
            save_picture(root / split / f"{i}.png", 64, 64, seed=i)
            save_ids(root / f"panoptic_{split}" / f"{i}.png", ids)
        annotations = [{"image_id": i, "file_name": f"{i}.png", "segments_info": segments[: int(ids.max())]} for i in range(4)]
        categories = [{"id": number, "name": name, "isthing": thing} for name, number, thing in names]
        write_json(root / f"panoptic_{split}.json", {"images": images, "annotations": annotations, "categories": categories})
    return root


def train(*arguments: object) -> Result:
    fixed = ["--batch-size", "2", "--crop", "64", "--workers", "0"]
    return CliRunner().invoke(main, ["train", *map(str, arguments), *fixed])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model folder with small random weights and a source."""
    folder = tmp_path / "checkpoint"
    save_folder(folder, SMALL_CONFIG, SMALL_CATEGORIES, small_network().state_dict())
    save_provenance(folder, Provenance("theirs.pth", "ab" * 32, "detectron2", ("warm start",)))
    return folder


def test_a_converted_model_is_fine_tuned_with_the_classes_of_the_data(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "run"
    result = train("--data", write_data(tmp_path / "data"), "--init", checkpoint, "--out", out, "--steps", 1, "--learning-rate", 1e-12)
    assert result.exit_code == 0, result.output
    assert "3 of 3 classes keep their weights, by name" in result.output
    assert "another order" in result.output
    config, categories, state = load_folder(out / "model")
    assert categories == (Category(21, "sky", False), Category(7, "grass", False), Category(0, "cat", True))
    before = small_network().state_dict()
    weight = "transformer_decoder.class_head.weight"
    assert torch.allclose(state[weight].float(), before[weight][[4, 3, 0, 5]], atol=2e-3, rtol=2e-3)
    assert config.preprocess == replace(SMALL_CONFIG.preprocess, training_side=64), "what `auto` windows go by"
    source = load_provenance(out / "model")
    assert source is not None
    assert source.name == "theirs.pth"
    assert source.changes[0] == "warm start"
    assert source.changes[1].startswith("trained on COCO panoptic data/train")


def test_classes_that_the_model_lacks_get_new_heads(tmp_path: Path, checkpoint: Path) -> None:
    names = (("cell", 3, 1), ("slide", 5, 0), ("dust", 8, 1))
    out = tmp_path / "run"
    result = train("--data", write_data(tmp_path / "data", names), "--init", checkpoint, "--out", out, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "new and untrained: cell, slide, dust" in result.output
    assert "dropped: cat, dog, ball, grass, sky" in result.output
    assert [category.id for category in Predictor.load(out / "model").categories] == [3, 5, 8]


def test_a_head_of_133_classes_is_replaced_by_two(tmp_path: Path) -> None:
    table = label_table("coco_panoptic").categories
    torch.manual_seed(0)
    network = SegmentationNetwork(replace(SMALL_CONFIG, classes=len(table)))
    save_folder(tmp_path / "coco", network.config, table, network.state_dict())
    data = write_data(tmp_path / "data", (("Cell", 3, 1), ("cat", 17, 1), ("wall", 1, 0)))
    for split in ("train", "val"):  # two classes: the first is left out
        path = data / f"panoptic_{split}.json"
        values = json.loads(path.read_text())
        values["categories"] = values["categories"][1:]
        for annotation in values["annotations"]:
            annotation["segments_info"] = annotation["segments_info"][1:]
        path.write_text(json.dumps(values))
    out = tmp_path / "run"
    result = train("--data", data, "--init", tmp_path / "coco", "--out", out, "--steps", 1, "--learning-rate", 1e-12)
    assert result.exit_code == 0, result.output
    assert "class head: 1 of 2 classes keep their weights, by name" in result.output
    assert "new and untrained: wall" in result.output
    assert "dropped: person, bicycle, car" in result.output
    config, categories, state = load_folder(out / "model")
    assert categories == (Category(17, "cat", True), Category(1, "wall", False))
    assert config.classes == 2
    before = network.state_dict()
    cat = [category.name for category in table].index("cat")
    weight = "transformer_decoder.class_head.weight"
    assert torch.allclose(state[weight][[0, 2]].float(), before[weight][[cat, -1]], atol=1e-3, rtol=1e-3)
    body = "transformer_decoder.query_features"
    assert torch.allclose(state[body].float(), before[body], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_weights(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_to_json(replace(SMALL_CONFIG, classes=3))))
    command = [sys.executable, "-c", "from proscale.cli import main; main()", "train", "--data", str(data), "--config", str(config)]
    command += ["--steps", "60", "--batch-size", "1", "--crop", "64", "--workers", "0", "--pilots", "0", "--frozen-batch-norm"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    out, kills = tmp_path / "killed", 0
    for wait in (0.3, 0.0):
        # After the first save, in the steps that follow; and after the last one, before the model is written.
        resume = ["--resume"] if (out / STATE_FILE).exists() else []
        seen = (out / STATE_FILE).stat().st_mtime_ns if resume else 0
        process = subprocess.Popen([*command, "--out", str(out), *resume], env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and not ((out / STATE_FILE).exists() and (out / STATE_FILE).stat().st_mtime_ns != seen):
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills
    subprocess.run([*command, "--out", str(out), "--resume"], env=environment, check=True, capture_output=True)
    assert (out / "model" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_scenes_are_added_only_when_asked_for(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", (("wall", 4, 0), ("floor", 2, 0), ("cat", 9, 1)))
    result = train("--data", data, "--out", tmp_path / "alone", "--steps", 1)
    assert result.exit_code == 0, result.output
    assert len(load_folder(tmp_path / "alone" / "model")[1]) == 3
    result = train("--data", data, "--out", tmp_path / "both", "--steps", 1, "--scenes", 2)
    assert result.exit_code == 0, result.output
    categories = load_folder(tmp_path / "both" / "model")[1]
    assert [category.id for category in categories[:3]] == [4, 2, 9]
    assert len(categories) == 3 + 13  # "wall" is one class


@pytest.mark.slow
def test_figures_overlays_and_the_best_model_appear_on_the_way(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "run"
    data = write_data(tmp_path / "data")
    result = train(
        "--data", data, "--init", checkpoint, "--out", out, "--steps", 4, "--evaluate-every", 2, "--metric", "miou", "--tensorboard"
    )
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    figures = [(record["step"], record["evaluation"]["miou"]) for record in records if "evaluation" in record]
    assert [step for step, _ in figures] == [2, 4]
    assert len(list((out / "overlays").iterdir())) == 8
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("evaluation/miou")] == [
        (step, pytest.approx(value)) for step, value in figures
    ]
    assert events.Scalars("training/loss")[-1].value == pytest.approx(next(r["loss"] for r in records if "loss" in r))
    assert events.Tags()["images"] == [f"overlays/{i}" for i in range(4)]
    assert torch.load(out / "last.pt", weights_only=True)["best"] == pytest.approx(max(value for _, value in figures))
    assert len(Predictor.load(out / "best").categories) == 3
    result = train("--data", data, "--out", tmp_path / "other", "--steps", 1, "--evaluate-every", 1, "--metric", "beauty")
    assert result.exit_code == 1
    assert "no figure 'beauty'" in result.output


@pytest.mark.slow
def test_command_line_options_override_the_yaml_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("steps: 1\nlearning_rate: 3e-4\nseed: 7\nlosses:\n  pilots: 3\ndata_augmentation:\n  scale: [1, 1.5]\n")
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    result = train("--data", data, "--out", out, "--settings", file, "--seed", 8)
    assert result.exit_code == 0, result.output
    settings = json.loads(torch.load(out / "last.pt", weights_only=True)["definition"])["settings"]
    assert (settings["learning_rate"], settings["seed"], settings["losses"]["pilots"]) == (3e-4, 8, 3)
    assert settings["data_augmentation"]["scale"] == [1.0, 1.5]
    assert not settings["data_augmentation"]["rotate"]
    for text, message in (
        ("stepz: 3", "no setting 'stepz'"),
        ("losses:\n  points: many", "losses.points is 'many'"),
        ("- 3", "must be a mapping"),
        ("a: [", "cannot be read as YAML"),
    ):
        file.write_text(text)
        result = train("--data", data, "--out", out, "--settings", file)
        assert result.exit_code == 1
        assert message in result.output


@pytest.mark.slow
def test_resume_after_the_classes_changed_is_refused(tmp_path: Path) -> None:
    out, data = tmp_path / "run", write_data(tmp_path / "data")
    assert train("--data", data, "--out", out, "--steps", 2, "--stop-after", 1).exit_code == 0
    write_data(data, IDS[::-1])
    result = train("--data", data, "--out", out, "--steps", 2, "--resume")
    assert result.exit_code == 1
    assert "21 sky, 7 grass, 0 cat then, 0 cat, 7 grass, 21 sky now" in result.output


def test_an_unannotated_picture_and_an_empty_split_are_named(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    next((data / "panoptic_train").iterdir()).unlink()
    result = train("--data", data, "--out", tmp_path / "run", "--steps", 1)
    assert result.exit_code == 1
    assert ".png" in result.output
    index = json.loads((data / "panoptic_val.json").read_text()) | {"annotations": []}
    write_json(data / "panoptic_val.json", index)
    result = train("--data", data, "--split", "val", "--out", tmp_path / "run", "--steps", 1)
    assert result.exit_code == 1
    assert "panoptic_val.json has no annotations" in result.output


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, checkpoint: Path) -> None:
    data, file = write_data(tmp_path / "data"), tmp_path / "settings.yaml"
    # Every cell counts and no pilots run: nothing is left to chance, which differs between processes.
    file.write_text("losses:\n  pilots: 0\n  points: 1000000\n")
    arguments = ["train", "--data", data, "--init", checkpoint, "--steps", 3, "--batch-size", 4, "--crop", 64, "--workers", 0]
    arguments += ["--frozen-batch-norm", "--settings", file]
    program = tmp_path / "program.py"
    program.write_text("from proscale.cli import main\nmain()\n")
    pair = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    for name, start in (("one", [sys.executable, program]), ("two", pair)):
        command = [str(part) for part in (*start, *arguments, "--out", tmp_path / name)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert one["step"] == two["step"] == 3
    for name, value in one["learner"].items():
        assert torch.allclose(value, two["learner"][name], atol=2e-4), name
