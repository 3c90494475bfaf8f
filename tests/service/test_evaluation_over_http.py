"""`proscale evaluate --url` against a running service: the figures of the same model in this process."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from proscale.cli import main
from proscale.evaluation.command import evaluate
from proscale_service.engines.in_process import InProcessEngine
from proscale_service.settings import CLIENT_KEY

from .serving import serving

NUCLEI = Path(__file__).parents[2] / "data" / "nuclei"


@pytest.mark.slow
def test_a_service_is_judged_like_its_model(tmp_path: Path) -> None:
    arguments = ["evaluate", "--data", str(NUCLEI), "--limit", "4", "--no-boundary", "--json"]
    with serving(InProcessEngine, threads=1, warmup="") as running:
        served = CliRunner().invoke(main, [*arguments, str(tmp_path / "served.json"), "--url", running.url, "--concurrency", "2"])
    local = CliRunner().invoke(main, [*arguments, str(tmp_path / "local.json")])
    assert (served.exit_code, local.exit_code) == (0, 0), served.output + local.output
    reports = [json.loads((tmp_path / name).read_text()) for name in ("served.json", "local.json")]
    speeds = [report.pop("pictures_per_second") for report in reports]
    assert min(speeds) > 0
    # Scores travel with six digits, which may change the order of two objects that are as good as equally sure.
    apart = [name for name in reports[0] if name.startswith(("ap", "ar"))]
    assert [reports[0].pop(name) for name in apart] == pytest.approx([reports[1].pop(name) for name in apart], abs=1e-3, nan_ok=True)
    classes = [report.pop("classes")["nucleus"] for report in reports]
    assert classes[0].pop("ap") == pytest.approx(classes[1].pop("ap"), abs=1e-3)
    assert classes[0] == classes[1]
    assert reports[0] == reports[1]
    assert reports[0]["pq"] > 0


def test_evaluate_reads_the_api_key_from_the_variable_of_all_clients() -> None:
    (option,) = [each for each in evaluate.params if each.name == "api_key"]
    assert option.envvar is not None
    assert CLIENT_KEY in option.envvar
