"""`proscale segment` on files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from proscale.cli import main
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.tiles import lay_out, parse_tiling, segment_picture
from proscale_service.requests import FormatName

from .pictures import encoded, exif, gradient

Run = Callable[..., Result]


@pytest.fixture
def run(small_checkpoint: Path) -> Run:
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


def test_joint_windows(run, small_predictor: Predictor, tmp_path: Path, picture: np.ndarray) -> None:
    large, answer = np.tile(picture, (3, 3, 1)), tmp_path / "out.json"
    source = tmp_path / "in.png"
    source.write_bytes(encoded(large))
    result = run(source, "--tile", "joint,96,32", "--json", answer)
    assert result.exit_code == 0, result.output
    expected = small_predictor.segment_joint(large, parse_tiling("joint,96,32"), SegmentationOptions(("panoptic",)))
    written = json.loads(answer.read_text())
    assert written["compute"]["tiles"]["joint"]
    counts = [segment["segmentation"]["counts"] for segment in written["results"]["panoptic"]]
    assert counts == [segment.segmentation.counts for segment in expected.results["panoptic"].segments]


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


def test_windows_as_the_predictor_sees_them(run, small_predictor: Predictor, tmp_path: Path, picture: np.ndarray) -> None:
    large = picture.repeat(6, 0).repeat(6, 1)
    source, answer = tmp_path / "large.png", tmp_path / "out.json"
    source.write_bytes(encoded(large))
    result = run(source, "--task", "semantic", "--tile", "200,40", "--json", answer)
    assert result.exit_code == 0, result.output
    layout = lay_out(parse_tiling("200,40"), large.shape[0], large.shape[1], small_predictor.plan, ("semantic",))
    expected = segment_picture(small_predictor, layout, large, SegmentationOptions(("semantic",))).results["semantic"].segments
    written = json.loads(answer.read_text())
    assert [each["segmentation"]["counts"] for each in written["results"]["semantic"]] == [s.segmentation.counts for s in expected]
    assert written["compute"]["tiles"]["windows"] == len(layout) == 6
    small = tmp_path / "small.png"
    small.write_bytes(encoded(picture))
    assert run(small, "--tile", "auto", "--json", answer).exit_code == 0
    assert "tiles" not in json.loads(answer.read_text())["compute"]


def test_mistakes_are_explained(run, tmp_path: Path, picture: np.ndarray) -> None:
    one, other, empty = tmp_path / "one.png", tmp_path / "other.png", tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "twin").mkdir()
    for path in (one, other, tmp_path / "twin" / "one.png"):
        path.write_bytes(encoded(picture))
    for arguments, message in (
        ([one, other], "several pictures need --json FOLDER, --overlay FOLDER or --out FOLDER"),
        ([one, tmp_path / "twin" / "one.png", "--json", empty], "two pictures have the same name"),
        ([one, "--task", "panoptic", "--task", "instance", "--overlay", "x.png"], "--overlay shows one task"),
        ([one, "--label", "unicorn"], "no label unicorn; it has cat"),
        ([one, "--tile", "512,400"], "windows of 512 pixels cannot overlap by 400; use 0 to 256"),
        ([one, "--threshold", "7"], "is not in the range"),
        ([empty], "has no picture"),
        ([tmp_path / "nowhere.png"], "does not exist"),
        ([one, "--checkpoint", tmp_path / "nowhere"], "no model folder at"),
    ):
        result = run(*arguments)
        assert result.exit_code != 0, arguments
        assert message in " ".join(result.output.split()), result.output


def folder_of(tmp_path: Path, *names: str) -> Path:
    """A folder with these pictures."""
    for name in names:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(gradient(), "JPEG"))
    return tmp_path / "pictures"


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("names", [["a.jpg"], ["a.jpg", "b.jpg"]])
@pytest.mark.parametrize("slash", ["", "/"])
def test_of_a_folder_the_outputs_are_folders_however_many_pictures_it_holds(run: Run, tmp_path: Path, names: list[str], slash: str) -> None:
    folder = folder_of(tmp_path, *names)
    result = run(folder, "--json", f"{tmp_path}/masks{slash}", "--overlay", f"{tmp_path}/overlays{slash}")
    assert result.exit_code == 0, result.output
    assert written(tmp_path / "masks") == [f"{name}.json" for name in names]
    assert written(tmp_path / "overlays") == [f"{name}.png" for name in names]


def test_of_a_file_the_output_is_a_file_unless_it_is_named_as_a_folder(run: Run, tmp_path: Path) -> None:
    picture = folder_of(tmp_path, "a.jpg") / "a.jpg"
    (tmp_path / "there").mkdir()
    for output, file in (("out.json", "out.json"), ("new/", "new/a.jpg.json"), ("there", "there/a.jpg.json")):
        assert run(picture, "--json", f"{tmp_path}/{output}").exit_code == 0
        assert (tmp_path / file).is_file()


def test_outputs_that_cannot_be_are_refused_before_anything_is_computed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "a.jpg", "b.jpg")
    monkeypatch.setattr("proscale.loading.load_predictor", lambda runtime: pytest.fail("the network was loaded"))
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (
            [folder / "a.jpg", folder / "b.jpg", "--json", tmp_path / "out.json"],
            "is one file, but there are 2 pictures; end the name with / for a folder",
        ),
        ([folder, "--json", tmp_path / "file"], "should be a folder, but is a file"),
        ([folder / "a.jpg", "--overlay", tmp_path / "out"], "should end with .png"),
        ([folder / "a.jpg", "--json", tmp_path / "file" / "out.json"], "cannot be written"),
        ([folder / "a.jpg", "--format", "geojson", "--out", tmp_path / "file" / "out"], "cannot be written"),
        ([folder / "a.jpg", "--intensity", "bright"], "should be full, minmax, percentile or LOW,HIGH"),
    ):
        result = run(*arguments)
        assert result.exit_code != 0, arguments
        assert message in " ".join(result.output.split()), result.output
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_hidden_files_are_skipped_and_folders_inside_are_read_when_asked(run: Run, tmp_path: Path) -> None:
    names = ["z.jfif", "one/a.jpg", "two/a.jpg", "one/deep/b.jpg", "._z.jpg", ".hidden.jpg", ".cache/c.jpg", "__MACOSX/._a.jpg"]
    folder = folder_of(tmp_path, *names)
    assert run(folder, "--json", tmp_path / "flat").exit_code == 0
    assert written(tmp_path / "flat") == ["z.jfif.json"]
    for _ in range(2):  # the results inside the folder are no pictures of the second run
        result = run(folder, "--recursive", "--overlay", folder / "results")
        assert result.exit_code == 0, result.output
        assert written(folder / "results") == ["one/a.jpg.png", "one/deep/b.jpg.png", "two/a.jpg.png", "z.jfif.png"]


def test_a_folder_of_folders_says_how_to_read_them(run: Run, tmp_path: Path) -> None:
    result = run(folder_of(tmp_path, "deep/a.jpg"), "--json", tmp_path / "out")
    assert result.exit_code != 0
    assert "--recursive also reads the folders" in " ".join(result.output.split())


def test_limits_and_model_come_from_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = folder_of(tmp_path, "a.jpg") / "a.jpg"
    monkeypatch.setenv("PROSCALE_MAX_PIXELS", "100")
    result = run(picture)
    assert result.exit_code == 1
    assert "more than the limit of 100" in result.output
    monkeypatch.setenv("PROSCALE_MAX_PIXELS", "many")
    result = run(picture)
    assert "PROSCALE_MAX_PIXELS" in result.output
    assert isinstance(result.exception, SystemExit)
    monkeypatch.setenv("PROSCALE_MAX_PIXELS", "")
    monkeypatch.setenv("PROSCALE_CHECKPOINT", str(tmp_path / "nowhere"))
    assert "no model folder at" in CliRunner().invoke(main, ["segment", str(picture)]).output


def test_the_json_says_what_the_answer_over_http_says(run: Run, tmp_path: Path) -> None:
    source, answer = tmp_path / "turned.jpg", tmp_path / "out.json"
    source.write_bytes(encoded(gradient(24, 40), "JPEG", exif=exif(6)))
    assert run(source, "--json", answer).exit_code == 0
    body = json.loads(answer.read_text())
    assert body["image"] == {"width": 24, "height": 40, "orientation_applied": 6}
    assert body["model"]["name"] == "small random model"
    assert body["compute"].keys() >= {"flops", "baseline_flops", "saved_ratio", "padded_size"}
    assert body["encoding"]["type"] == "coco_rle"
    assert body["id"] == str(source)
    assert isinstance(body["results"]["panoptic"], list)


def test_a_dark_picture_is_warned_of_and_can_be_stretched(run: Run, tmp_path: Path) -> None:
    source, answer = tmp_path / "dark.png", tmp_path / "out.json"
    source.write_bytes(encoded(gradient()[:, :, 0].astype(np.uint16) * 16))
    result = run(source, "--json", answer)
    assert "Warning" in result.output
    assert "intensity=0,4095" in json.loads(answer.read_text())["image"]["warnings"][0]
    assert "Warning" not in run(source, "--json", answer, "--intensity", "0,4095").output


def test_every_format_and_cleaning_of_the_service_is_there(run: Run, tmp_path: Path, picture: np.ndarray) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (folder / name).write_bytes(encoded(picture))
    formats = [argument for name in get_args(FormatName) for argument in ("--format", name)]
    result = run(
        folder, "--recursive", "--task", "semantic", *formats, "--out", out, "--min-area", 3, "--opacity", 0, "--no-outlines", "--no-names"
    )
    assert result.exit_code == 0, result.output
    for place, name in ((out, "a.png"), (out / "sub", "b.png")):
        answer = json.loads((place / f"{name}.json").read_text())
        assert answer["cleaning"].keys() >= {"dropped_small"}
        assert all(segment["area"] >= 3 for segment in answer["segments"])
        shapes = json.loads((place / f"{name}.semantic.geojson").read_text())["features"]
        assert len(shapes) == len(answer["segments"]) == len(list((place / f"{name}.semantic-masks").iterdir()))
        annotation = json.loads((place / f"{name}.semantic-coco.json").read_text())["annotations"][0]
        assert (place / annotation["file_name"]).is_file()
        np.testing.assert_array_equal(np.asarray(Image.open(place / f"{name}.semantic-overlay.png")), picture)


def test_formats_that_cannot_be_are_refused_before_anything_is_computed(run: Run, tmp_path: Path) -> None:
    picture = folder_of(tmp_path, "a.jpg") / "a.jpg"
    for arguments, message in (
        (["--format", "csv"], "--format and --out belong together"),
        (["--out", tmp_path / "out"], "--format and --out belong together"),
        (["--format", "svg", "--out", tmp_path / "out"], "'geojson'"),
        (["--format", "coco_panoptic", "--task", "instance", "--out", tmp_path / "out"], "coco_panoptic is for task=panoptic or semantic"),
        (["--format", "geojson", "--simplify", "-1", "--out", tmp_path / "out"], "simplify: "),
        (["--format", "geojson", "--affine", "1,2", "--out", tmp_path / "out"], "affine: "),
        (["--deduplicate", "7"], "deduplicate: "),
        (["--merge-labels", "car"], "merge_labels: "),
        (["--merge-labels", "x=nothing"], "merge_labels: the model has no label 'nothing'"),
    ):
        result = run(picture, *arguments)
        assert result.exit_code != 0, arguments
        assert message in " ".join(result.output.split()), result.output
        assert not (tmp_path / "out").exists()
