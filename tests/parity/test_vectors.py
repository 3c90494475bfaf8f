"""The network reproduces reference outputs; and the comparison notices when it does not."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.parity import check_vectors, semantic_vectors

VECTORS = Path(__file__).parent / "vectors"
CASES = sorted(VECTORS.glob("*.json"))
SEMANTIC_CASES = sorted((VECTORS / "semantic").glob("*.json"))
POSTPROCESS_CASES = sorted((VECTORS / "postprocess").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_network_reproduces_reference(path: Path) -> None:
    report = check_vectors.check_network(path)
    assert not report.failed, "\n".join(report.lines)


@pytest.mark.parametrize("path", SEMANTIC_CASES, ids=lambda path: path.stem)
def test_semantic_network_reproduces_reference(path: Path) -> None:
    report = semantic_vectors.check_semantic(path)
    assert not report.failed, "\n".join(report.lines)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("segformer_mmseg", {"layer_norm_eps": 1e-5}),
        ("segformer_hf_small", {"layer_norm_eps": 1e-6}),
        ("setr_mla_slide", {"taps": [0, 2, 3, 4]}),
        ("segformer_mmseg_odd", {"layer_norm_eps": 1e-5}),
        ("setr_pup_resized", {"mode": "bicubic"}),
        ("segvit_slide", {"stride": [60, 50]}),
        ("segvit_slide", {"atm_heads": 4}),
    ],
    ids=["mmseg eps", "transformers eps", "taps", "odd eps", "positions", "stride", "heads"],
)
def test_what_no_semantic_weight_tells_matters(tmp_path: Path, name: str, change: dict[str, object]) -> None:
    for file in (VECTORS / "semantic").glob(f"{name}.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert semantic_vectors.check_semantic(path).failed


@pytest.mark.parametrize("path", POSTPROCESS_CASES, ids=lambda path: path.stem)
def test_postprocessing_reproduces_reference(path: Path) -> None:
    report = check_vectors.check_postprocess(path)
    assert not report.failed, "\n".join(report.lines)


def copy_case(name: str, target: Path) -> Path:
    for file in VECTORS.glob(f"{name}.*"):
        shutil.copy(file, target)
    return target / f"{name}.json"


@pytest.mark.slow
def test_a_single_wrong_weight_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_case("proscale_resnet_121_none", tmp_path)
    weights = load_file(path.with_suffix(".weights.safetensors"))
    weights["sem_seg_head.pixel_decoder.transformer.level_embed"][0, 0] += 0.01
    save_file(weights, path.with_suffix(".weights.safetensors"))
    assert check_vectors.main([str(tmp_path)]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"excite_temperature": 0.2}, {"residual": False}], ids=["temperature", "residual"])
def test_what_no_weight_tells_matters(tmp_path: Path, change: dict[str, object]) -> None:
    path = copy_case("proscale_swin_123_conv_residual", tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert check_vectors.check_network(path).failed


def test_wrong_segments_are_noticed(tmp_path: Path) -> None:
    shutil.copytree(VECTORS / "postprocess", tmp_path / "postprocess")
    path = tmp_path / "postprocess" / "merge_stuff.json"
    case = json.loads(path.read_text())
    case["segments_info"][0]["category_id"] += 1
    path.write_text(json.dumps(case))
    assert check_vectors.check_postprocess(path).failed


def test_cases_are_found_and_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert len(CASES) == 5
    assert len(SEMANTIC_CASES) == 7
    assert len(POSTPROCESS_CASES) == 5
    assert check_vectors.main([str(tmp_path)]) == 2
