"""`proscale segment` on files."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from proscale.cli import main
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

from .pictures import encoded, exif, gradient


@pytest.fixture
def run(small_checkpoint: Path):
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["segment", "--checkpoint", str(small_checkpoint), *map(str, arguments)])

    return invoke


def test_one_file_gives_a_table_json_and_an_overlay_as_the_predictor_sees_it(
    run, small_predictor: Predictor, tmp_path: Path, picture: np.ndarray
) -> None:
    source, overlay, answer = tmp_path / "in.png", tmp_path / "sub" / "out.png", tmp_path / "out.json"
    source.write_bytes(encoded(picture))
    result = run(source, "--task", "instance", "--threshold", 0.1, "--overlay", overlay, "--json", answer)
    assert result.exit_code == 0, result.output
    (prediction,) = small_predictor.segment([picture], [SegmentationOptions(("instance",), threshold=0.1)])
    expected = prediction.results["instance"].segments
    assert f"instance: {len(expected)} segments" in result.output
    written = json.loads(answer.read_text())["results"]["instance"]
    assert [segment["segmentation"]["counts"] for segment in written] == [segment.segmentation.counts for segment in expected]
    painted = np.asarray(Image.open(overlay))
    assert painted.shape == picture.shape
    assert (painted != picture).any()


def test_orientation_is_applied_as_over_http(run, tmp_path: Path) -> None:
    source, answer = tmp_path / "turned.jpg", tmp_path / "out.json"
    source.write_bytes(encoded(gradient(24, 40), "JPEG", exif=exif(6)))
    assert run(source, "--json", answer, "--task", "semantic").exit_code == 0
    assert json.loads(answer.read_text())["results"]["semantic"][0]["segmentation"]["size"] == [40, 24]


def test_many_files_with_a_broken_one_among_them(run, tmp_path: Path, picture: np.ndarray) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(encoded(picture))
    (folder / "b.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    result = run(folder, "--json", out, "--overlay", out)
    assert result.exit_code == 1
    assert "b.jpg: the data is not a picture" in result.output
    assert "2 of 3 pictures segmented" in result.output
    assert "100%" in result.output
    assert sorted(path.name for path in out.iterdir()) == ["a.png.json", "a.png.png", "c.png.json", "c.png.png"]


def test_mistakes_are_explained(run, tmp_path: Path, picture: np.ndarray) -> None:
    one, other, empty = tmp_path / "one.png", tmp_path / "other.png", tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "twin").mkdir()
    for path in (one, other, tmp_path / "twin" / "one.png"):
        path.write_bytes(encoded(picture))
    for arguments, message in (
        ([one, other], "many files need --json FOLDER or --overlay FOLDER"),
        ([one, tmp_path / "twin" / "one.png", "--json", empty], "two pictures have the same name"),
        ([one, "--task", "panoptic", "--task", "instance", "--overlay", "x.png"], "--overlay shows one task"),
        ([one, "--label", "unicorn"], "no label unicorn; it has cat"),
        ([one, "--threshold", "7"], "is not in the range"),
        ([empty], "holds no picture"),
        ([tmp_path / "nowhere.png"], "does not exist"),
        ([one, "--checkpoint", tmp_path / "nowhere"], "no model folder at"),
    ):
        result = run(*arguments)
        assert result.exit_code != 0, arguments
        assert message in " ".join(result.output.split()), result.output
