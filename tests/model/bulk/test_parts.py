"""What a bulk job is made of, without Ray: the folder that it writes, and what an actor does."""

import resource
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from PIL import Image

from proscale.bulk.listing import list_pictures
from proscale.bulk.output import OutputFolder
from proscale.bulk.rows import SCHEMA
from proscale.bulk.segmenter import PictureSegmenter
from proscale.cli import main
from proscale.errors import DataError
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale.tiles import lay_out, parse_tiling, segment_picture

from .shared import declared


@pytest.fixture
def folder(tmp_path: Path, picture: np.ndarray) -> Path:
    inside = tmp_path / "in" / "sub"
    inside.mkdir(parents=True)
    Image.fromarray(picture).save(inside / "b.png")
    Image.fromarray(picture[::-1]).save(tmp_path / "in" / "a.png")
    Image.fromarray(picture.repeat(4, 0).repeat(4, 1)).save(tmp_path / "in" / "large.png")
    (tmp_path / "in" / "broken.jpg").write_text("no picture")
    (tmp_path / "in" / "notes.md").write_text("not looked at")
    return tmp_path / "in"


@pytest.mark.slow
def test_rows_are_what_the_predictor_says_and_broken_pictures_are_rows(
    folder: Path, small_checkpoint: Path, small_predictor: Predictor, picture: np.ndarray
) -> None:
    options = SegmentationOptions(("panoptic", "instance"))
    segmenter = PictureSegmenter(RuntimeConfig(checkpoint=small_checkpoint), options, "auto", "full", 100_000)
    paths = [*(each.path for each in list_pictures([str(folder)])), str(folder / "gone.png")]
    table = segmenter({"path": np.array(paths, object)})
    assert table.schema == SCHEMA
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == paths
    assert "the data is not a picture" in rows[1]["error"]
    assert rows[4]["error"] == "No such file or directory"
    (expected,) = small_predictor.segment([picture[::-1]], [options])
    for task in options.tasks:
        counts = [segment["counts"] for segment in rows[0]["segments"] if segment["task"] == task]
        assert counts == [segment.segmentation.counts for segment in expected.results[task].segments]
    assert (rows[0]["height"], rows[0]["width"], rows[0]["flops"], rows[0]["windows"], rows[0]["error"]) == (
        60,
        80,
        expected.plan.flops,
        1,
        None,
    )
    large = picture.repeat(4, 0).repeat(4, 1)
    layout = lay_out(parse_tiling("auto"), 240, 320, small_predictor.plan, options.tasks)
    assert layout is not None
    assert rows[2]["windows"] == len(layout)
    whole = segment_picture(small_predictor, layout, large, options).results["panoptic"].segments
    assert [s["area"] for s in rows[2]["segments"] if s["task"] == "panoptic"] == [s.area for s in whole]


def test_the_folder_knows_what_is_done_and_belongs_to_one_job(tmp_path: Path) -> None:
    rows = pyarrow.Table.from_pylist([{"path": "a"}, {"path": "b", "error": "e"}], SCHEMA)
    with OutputFolder(tmp_path / "out", {"tile": "off"}) as folder:
        folder.add(rows)
        with pytest.raises(DataError, match="another job writes to"):
            OutputFolder(tmp_path / "out", {"tile": "off"})
    (tmp_path / "out" / ".part-000002.parquet.part").write_text("half")
    with OutputFolder(tmp_path / "out", {"tile": "off"}) as folder:
        assert folder.done() == {"a": False, "b": True}
        folder.add(rows)
        assert [part.name for part in folder.parts] == ["part-000001.parquet", "part-000002.parquet"]
        assert not list((tmp_path / "out").glob(".*"))
    with pytest.raises(DataError, match="begun with other tile"):
        OutputFolder(tmp_path / "out", {"tile": "auto"})


@pytest.mark.slow
@pytest.mark.parametrize("tile", ["96,24", "auto"])
def test_windows_of_a_picture_are_what_they_are_anywhere_else(
    folder: Path, small_checkpoint: Path, small_predictor: Predictor, picture: np.ndarray, tile: str
) -> None:
    options = SegmentationOptions()
    segmenter = PictureSegmenter(RuntimeConfig(checkpoint=small_checkpoint), options, tile, "full", 100_000)
    (row,) = segmenter({"path": np.array([str(folder / "large.png")], object)}).to_pylist()
    layout = lay_out(parse_tiling(tile), 240, 320, small_predictor.plan, options.tasks)
    assert layout is not None
    whole = segment_picture(small_predictor, layout, picture.repeat(4, 0).repeat(4, 1), options)
    assert row["windows"] == len(layout) > 1
    assert row["flops"] == whole.plan.flops
    assert [s["counts"] for s in row["segments"]] == [s.segmentation.counts for s in whole.results["panoptic"].segments]


def test_joint_windows_are_what_they_are_anywhere_else(
    folder: Path, small_checkpoint: Path, small_predictor: Predictor, picture: np.ndarray
) -> None:
    options, tile = SegmentationOptions(), "joint,96,24"
    segmenter = PictureSegmenter(RuntimeConfig(checkpoint=small_checkpoint), options, tile, "full", 100_000)
    rows = segmenter({"path": np.array([str(folder / name) for name in ("large.png", "broken.jpg", "a.png")], object)}).to_pylist()
    large, small = (
        small_predictor.segment_joint(image, parse_tiling(tile), options) for image in (picture.repeat(4, 0).repeat(4, 1), picture[::-1])
    )
    assert large.plan.tiles is not None
    assert [row["windows"] for row in rows] == [large.plan.tiles.windows, None, 1]
    assert "not a picture" in rows[1]["error"]
    for row, expected in ((rows[0], large), (rows[2], small)):
        assert row["flops"] == expected.plan.flops
        assert [s["counts"] for s in row["segments"]] == [s.segmentation.counts for s in expected.results["panoptic"].segments]


def test_a_full_disk_leaves_what_was_done_and_nothing_half(tmp_path: Path) -> None:
    rows = pyarrow.Table.from_pylist([{"path": f"{number}", "error": "e"} for number in range(2000)], SCHEMA)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with OutputFolder(tmp_path / "out", {}) as folder:
        folder.add(rows.slice(0, 2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # a file that cannot grow, as on a full disk
        try:
            with pytest.raises(OSError, match="File too large"):
                folder.add(rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [path.name for path in folder.parts] == ["part-000001.parquet"]
        assert not list((tmp_path / "out").glob(".*"))
        folder.add(rows)
        assert len(folder.done()) == 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output-format", "bmp", "x", "out"], "is none of parquet, coco, json"),
        (["--output-format", "ids_png", "--service", ",", "x.png", "out"], "names no URL"),
        (["nowhere", "out"], "nowhere is not there"),
        (["--tile", "64,60", "nowhere", "out"], "cannot overlap by 60"),
        (["nowhere"], "Missing argument"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").touch()
    monkeypatch.setattr("proscale.bulk.command.entry_points", declared)
    result = CliRunner().invoke(main, ["bulk", *arguments])
    assert result.exit_code != 0
    assert message in result.output
