"""`proscale reproduce` from a stand-in hub on a miniature of COCO: fetched, converted, evaluated, compared."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.miniature import write_coco
from tests.model.checkpoints.test_hub import REPOSITORY, ROOT, hub

from proscale.checkpoints.published_models import published_models
from proscale.cli import main
from proscale.errors import CheckpointError
from proscale.evaluation.reproduce import compare, find_model

__all__ = ["hub"]  # a fixture

MODEL = replace(find_model("facebook/mask2former-swin-tiny-coco-panoptic"), hub=REPOSITORY)
NUCLEI = ROOT / "data" / "nuclei"
RUN = """
import json, sys
import proscale.checkpoints.published_models as table
from proscale.evaluation import reproduce
stand_in = table.PublishedModel(**json.loads(sys.argv[1]))
reproduce.published_models = lambda: (stand_in,)
from proscale.evaluation.reproduce_command import reproduce as command
command.main(sys.argv[2:])
"""


def reproduce(endpoint: str, tmp_path: Path, metrics: dict[str, float]) -> subprocess.CompletedProcess[str]:
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "")
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | proxies | settings | {"PYTHONPATH": str(ROOT / "model")}
    arguments = [MODEL.name, "--data", str(tmp_path / "coco"), "--out", str(tmp_path / "out"), "--tolerance", "0.001"]
    command = [sys.executable, "-c", RUN, json.dumps(asdict(replace(MODEL, metrics=metrics))), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_from_the_hub_to_the_verdict(hub: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    first = reproduce(hub, tmp_path, {"PQ": 53.2, "AP": 43.3, "mIoU": 63.2})
    assert first.returncode == 1, first.stderr
    assert "not reproduced" in first.stdout
    assert f"proscale convert hf:{REPOSITORY} {tmp_path / 'out' / MODEL.slug}" in first.stdout
    assert "0.4 GB for the model, about 3 GB for COCO val2017" in first.stdout
    report = json.loads((tmp_path / "out" / f"{MODEL.slug}.json").read_text())
    measured = {metric: 100 * report[name] for metric, name in (("PQ", "pq"), ("AP", "ap"), ("mIoU", "miou"))}
    assert "PQ            53.20" in first.stdout
    assert "fail" in first.stdout
    again = reproduce(hub, tmp_path, measured)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("  pass") == 3
    assert again.stdout.endswith(": reproduced\n")


def test_dry_run_says_what_it_takes() -> None:
    result = CliRunner().invoke(main, ["reproduce", "facebook/mask2former-swin-large-coco-panoptic", "--data", "coco", "--dry-run"])
    assert result.exit_code == 0, result.output
    slug = find_model("facebook/mask2former-swin-large-coco-panoptic").slug
    assert f"proscale convert hf:facebook/mask2former-swin-large-coco-panoptic reproduced/{slug}" in result.output
    assert f"proscale evaluate --data coco --checkpoint reproduced/{slug} --json reproduced/{slug}.json" in result.output
    assert "disk: 1.7 GB" in result.output


def test_models_are_found_by_name_and_ambiguous_names_refused(tmp_path: Path) -> None:
    for model in published_models():
        assert find_model(model.name) is model
        assert find_model(model.slug) is model
    with pytest.raises(CheckpointError, match="no published model is called 'resnet-34'"):
        find_model("resnet-34")
    with pytest.raises(CheckpointError, match=r"may be 'Mask2Former Swin-T COCO panoptic', .* write one of them whole"):
        find_model("swin-t")
    arguments = ["reproduce", "PRO-SCALE (3, 3, 3) Swin-T COCO panoptic", "--data", str(NUCLEI), "--out", str(tmp_path)]
    assert "only available from its authors" in CliRunner().invoke(main, arguments).output


def test_every_figure_is_compared_with_its_own_kind() -> None:
    model = find_model("Mask2Former ResNet-50 Cityscapes panoptic")
    report = {"pq": model.metrics["PQ"] / 100 + 0.0009, "ap": 0.1, "cityscapes_ap": model.metrics["AP"] / 100}
    rows = {row.metric: row.verdict for row in compare(model, report, 0.1)}
    assert rows["PQ"] == "pass"
    assert rows["AP"] == "pass"  # Cityscapes' own
    assert rows["mIoU"].startswith("not measured")
    assert compare(model, {"pq": 0.1}, 0.1)[0].verdict == "fail"
