"""`proscale convert` and `proscale models`."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.model.checkpoints.test_convert import MASK2FORMER_SMALL, detectron2_file

from proscale.checkpoints.command import convert, models
from proscale.checkpoints.model_folder import load_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.published_models import published_models
from proscale.config import ProScaleEncoderConfig
from proscale.labels import label_table


def run(*arguments: object) -> Result:
    return CliRunner().invoke(convert, [str(argument) for argument in arguments])


def test_everything_read_and_assumed_is_printed(tmp_path: Path) -> None:
    source = detectron2_file(tmp_path)
    done = run(source, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == "layout: detectron2, with no configuration"
    for said in (
        "encoder: PRO-SCALE (1, 1, 1), pixel embedding maxpool",
        "assumed, as published: 8 attention heads, 4 sampling points",
        "temperature 0.1 (assumed, as published), residual False (assumed, as published)",
        f"source: model_final.pth, sha256 {hashlib.sha256(source.read_bytes()).hexdigest()}",
        f"serve it: PROSCALE_CHECKPOINT={tmp_path / 'out'} proscale serve",
    ):
        assert said in done.output


def test_out_is_not_overwritten_without_force(tmp_path: Path) -> None:
    source = detectron2_file(tmp_path)
    (tmp_path / "out").mkdir()
    assert run(source, tmp_path / "out").exit_code == 0
    refused = run(source, tmp_path / "out")
    assert refused.exit_code == 1
    assert "exists; give --force to replace it" in refused.output
    assert run(source, tmp_path / "out", "--force").exit_code == 0


def test_warm_start_states_which_layer_feeds_which(tmp_path: Path) -> None:
    source = detectron2_file(tmp_path, MASK2FORMER_SMALL)
    done = run(source, tmp_path / "out", "--encoder", "proscale", "--layers", "1,2,1", "--recalibration", "none")
    assert done.exit_code == 0, done.output
    assert "encoder layers 0 <- 0, 1 <- 0, 2 <- 1, 3 <- 1 (new <- source)" in done.output
    config, _, _ = load_folder(tmp_path / "out")
    assert config.pixel_decoder.encoder == ProScaleEncoderConfig((1, 2, 1), "none")
    origin = load_provenance(tmp_path / "out")
    assert origin is not None
    assert origin.changes[0].startswith("warm start of PRO-SCALE (1, 2, 1), to be fine-tuned")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "3,3,3"], "need --encoder proscale"),
        (["--encoder", "proscale", "--layers", "3,3"], "is not P1,P2,P3"),
        (["--encoder", "proscale", "--layers", "3,3,0"], "at least one layer that sees all levels"),
        (["--to", "transformers", "--dtype", "float16"], "--dtype needs --to proscale"),
        (["--to", "transformers"], "its encoder is PRO-SCALE's"),
        (["--encoder", "proscale"], "needs a Mask2Former checkpoint"),
        (["--labels", "cityscapes"], "the weights have 133 classes"),
    ],
)
def test_refusals_name_the_remedy(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(detectron2_file(tmp_path), tmp_path / "out", *arguments)
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_models_lists_numbers_licences_and_commands() -> None:
    done = CliRunner().invoke(models, ["--dataset", "coco"])
    assert done.exit_code == 0
    assert "Mask2Former Swin-T COCO panoptic: PQ 53.2, AP 43.3, mIoU 63.2" in done.output
    assert "PRO-SCALE (3, 3, 3) Swin-T COCO panoptic: PQ 52.88" in done.output
    assert "proscale convert hf:facebook/mask2former-swin-tiny-coco-panoptic mask2former-swin-t-coco-panoptic\n" in done.output
    assert "CC BY-NC 4.0" in done.output
    assert "Cityscapes" not in done.output
    everything = json.loads(CliRunner().invoke(models, ["--json"]).output)
    assert len(everything) == len(published_models())
    assert all(entry["commands"] for entry in everything)


def test_entries_of_published_models_are_complete() -> None:
    names = [model.name for model in published_models()]
    assert len(set(names)) == len(names)
    for model in published_models():
        assert label_table(model.labels)
        assert set(model.metrics) <= {"PQ", "AP", "mIoU"}
        assert all(20 < value < 90 for value in model.metrics.values())
        assert model.reference.startswith("https://")
        assert model.licence
        assert all(command.split(" && ")[-1].startswith("proscale convert ") for command in model.commands)
