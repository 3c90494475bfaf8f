"""What the driver makes of rows: files and tables, COCO's files, figures for Prometheus, an early end, the exit status."""

import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pyarrow
import pytest
import ray.data
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO

from proscale.bulk import job
from proscale.bulk.coco import image_ids, write_coco
from proscale.bulk.command import bulk
from proscale.bulk.formats import OUTPUT_FORMATS, check_output_format, check_places, place_of
from proscale.bulk.job import Summary, run
from proscale.bulk.listing import list_pictures
from proscale.bulk.metrics import serving
from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.output import OutputFolder
from proscale.bulk.rows import SCHEMA, STOP, segmentation_of
from proscale.bulk.segmenter import PictureSegmenter
from proscale.errors import DataError, ParameterError
from proscale.formats.coco import panoptic_map
from proscale.formats.files import FORMATS, FormatOptions
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig

TASKS = ("panoptic", "instance")


@pytest.fixture
def folder(tmp_path: Path, picture: np.ndarray) -> Path:
    (tmp_path / "in/sub").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "in/a.png")
    Image.fromarray(picture[::-1, 10:]).save(tmp_path / "in/sub/a.png")
    (tmp_path / "in/z.jpg").write_text("no picture")
    return tmp_path / "in"


def rows_of(folder: Path, checkpoint: Path, output_format: str, tasks: Sequence[str] = TASKS) -> pyarrow.Table:
    runtime, options = RuntimeConfig(checkpoint=checkpoint), SegmentationOptions(tuple(tasks))
    segmenter = PictureSegmenter(runtime, options, "off", "full", 10**6, output_format)
    return segmenter({"path": np.array([picture.path for picture in list_pictures([str(folder)])], object)})


def without_ray(monkeypatch: pytest.MonkeyPatch, batches: Sequence[pyarrow.Table]) -> None:
    """A job whose actors give these tables, so that what the driver does with them is seen alone."""
    monkeypatch.setattr(job, "_start_ray", lambda options: None)
    monkeypatch.setattr(ray.data, "from_arrow", lambda blocks: blocks)
    given = SimpleNamespace(iter_batches=lambda **options: iter(batches))
    monkeypatch.setattr(job, "segment", lambda blocks, options, work: given)
    monkeypatch.setattr(job, "rows_alone", lambda pictures, options, work: iter(()))


@pytest.mark.slow
def test_files_per_picture_are_those_of_the_service(folder: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    rows = rows_of(folder, small_checkpoint, "json")
    with OutputFolder(tmp_path / "out", {}) as output:
        output.add(rows)
        assert output.done() == {row["path"]: row["error"] is not None for row in rows.to_pylist()}
    written = tmp_path / "out/files" / place_of(f"{folder}/sub/a.png.json")
    row = rows.to_pylist()[1]
    assert json.loads(written.read_text())["segments"] == [{**s, "score": pytest.approx(s["score"])} for s in row["segments"]]
    assert sorted(each["name"] for row in rows.to_pylist() for each in row["files"] or ()) == [
        f"files/{place_of(str(folder))}/{name}.json" for name in ("a.png", "sub/a.png")
    ]
    for name in sorted(set(OUTPUT_FORMATS) - {"parquet", "coco", "json"}):
        task = FORMATS[name].tasks[0]
        row = rows_of(folder, small_checkpoint, name, [task]).to_pylist()[0]
        expected = FORMATS[name].write(
            segmentation_of(row, task),
            None,
            FormatOptions(image_id=row["path"], seed=row["path"], prefix=f"files/{place_of(row['path'])}."),
        )
        assert [(each["name"], each["data"]) for each in row["files"]] == [(file.name, file.data) for file in expected], name
    with pytest.raises(ParameterError, match="output format semantic_png is for task"):
        check_output_format("semantic_png", ["instance"])


def test_two_pictures_never_share_a_file() -> None:
    assert place_of("s3://b/x.tar::y/z.png") == "b/x.tar/y/z.png"
    assert place_of("/a//./b/../c.png") == "a/b/__/c.png"
    check_places(["a/b.png", "a/b.jpg", "b.png"])
    with pytest.raises(DataError, match="two jobs"):
        check_places(["a/b.png", "/a/b.png"])


def test_coco_files_are_what_pycocotools_reads(folder: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    rows = rows_of(folder, small_checkpoint, "coco")
    out = tmp_path / "out"
    with OutputFolder(out, {}) as output:
        output.add(rows.slice(1))
        output.add(rows.slice(0, 1))
        write_coco(out, output.parts, TASKS)
    assert not list(out.glob(".*"))
    segmented = [row for row in rows.to_pylist() if row["error"] is None]
    images = json.loads((out / "images.json").read_text())
    assert sorted((image["id"], image["file_name"]) for image in images["images"]) == [(1, segmented[0]["path"]), (2, segmented[1]["path"])]
    truth = COCO()
    truth.dataset = images | {"annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(str(out / "instance-results.json"))
    for number, row in enumerate(segmented, 1):
        instances = [segment for segment in row["segments"] if segment["task"] == "instance"]
        found = loaded.loadAnns(loaded.getAnnIds(imgIds=[number]))
        assert [each["segmentation"]["counts"] for each in found] == [each["counts"] for each in instances]
    panoptic = json.loads((out / "panoptic.json").read_text())
    assert {each["id"] for each in panoptic["categories"]} >= {s["category_id"] for row in segmented for s in row["segments"]}
    by_id = {each["image_id"]: each for each in panoptic["annotations"]}
    for number, row in enumerate(segmented, 1):
        with Image.open(out / "panoptic" / by_id[number]["file_name"]) as image:
            np.testing.assert_array_equal(np.asarray(image), panoptic_map(segmentation_of(row, "panoptic")))
        assert [s["area"] for s in by_id[number]["segments_info"]] == [s["area"] for s in row["segments"] if s["task"] == "panoptic"]


def test_pictures_whose_names_are_numbers_keep_them() -> None:
    assert image_ids(["x/000000000139.jpg", "x/000000000285.jpg"]) == {"x/000000000139.jpg": 139, "x/000000000285.jpg": 285}
    assert image_ids(["y/01.jpg", "x/1.jpg"]) == {"x/1.jpg": 1, "y/01.jpg": 2}


def test_a_job_that_cannot_go_on_keeps_what_was_done(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = list_pictures([str(folder)])
    first = pyarrow.Table.from_pylist([{"path": pictures[0].path, "error": "x", "flops": 3}, {"path": STOP, "error": "no service"}], SCHEMA)
    without_ray(monkeypatch, [first])
    work, seen = Work(object, (), {"model": "m"}), list[Summary]()
    with pytest.raises(DataError, match="no service; what was done stays"):
        run(pictures, tmp_path / "out", BulkOptions(), lambda summary: seen.append(summary), work)
    rest = pyarrow.Table.from_pylist([{"path": picture.path} for picture in pictures[1:]], SCHEMA)
    without_ray(monkeypatch, [rest])
    summary = run(pictures, tmp_path / "out", BulkOptions(), work=work)
    assert (summary.pictures, summary.done_before, summary.failed_before, summary.share_failed) == (2, 1, 1, 1 / 3)
    with OutputFolder(tmp_path / "out", {"model": "m", "output_format": "parquet"}) as output:
        assert sorted(output.done()) == [picture.path for picture in pictures]
    with pytest.raises(DataError, match="begun with other output_format"):
        run(pictures, tmp_path / "out", BulkOptions(output_format="coco"), work=work)


def test_ctrl_c_writes_the_rows_that_came(folder: Path, tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[pyarrow.Table]:
        yield pyarrow.Table.from_pylist([{"path": str(folder / "a.png")}], SCHEMA)
        raise KeyboardInterrupt

    without_ray(monkeypatch, interrupted())
    arguments = [str(folder), str(tmp_path / "out"), "--checkpoint", str(small_checkpoint)]
    result = CliRunner().invoke(bulk, arguments)
    assert result.exit_code == 130
    assert "the same command goes on" in result.output
    without_ray(monkeypatch, [])
    result = CliRunner().invoke(bulk, arguments)
    assert "1 done before" in result.output


@pytest.mark.parametrize(("most", "status"), [("0.32", 1), ("0.34", 0)])
def test_the_exit_status_goes_by_the_share_of_failures(
    folder: Path, tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, most: str, status: int
) -> None:
    rows = [{"path": picture.path, "error": "e" if picture.path.endswith("jpg") else None} for picture in list_pictures([str(folder)])]
    without_ray(monkeypatch, [pyarrow.Table.from_pylist(rows, SCHEMA)])
    arguments = [str(folder), str(tmp_path / "out"), "--checkpoint", str(small_checkpoint), "--most-failed", most, "--metrics-port", "0"]
    result = CliRunner().invoke(bulk, arguments)
    assert result.exit_code == status, result.output
    assert re.search(r"Metrics at http://127\.0\.0\.1:\d+/metrics", result.output)
    assert ("1 of 3 pictures failed" in result.output) == bool(status)


def test_prometheus_is_told_how_far_a_job_is() -> None:
    with serving(0, "127.0.0.1") as (metrics, port):
        metrics.show(Summary(total=10, pictures=4, failed=1, done_before=3, flops=5, baseline_flops=7))
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        with pytest.raises(DataError, match=f"127.0.0.1:{port}"), serving(port, "127.0.0.1"):
            pass
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples.pop("proscale_bulk_last_row_timestamp_seconds")) > 1e9
    assert {name: float(value) for name, value in samples.items()} == {
        'proscale_bulk_pictures_total{outcome="segmented"}': 3,
        'proscale_bulk_pictures_total{outcome="failed"}': 1,
        "proscale_bulk_listed_pictures": 10,
        "proscale_bulk_done_before_pictures": 3,
        "proscale_bulk_left_pictures": 3,
        "proscale_bulk_flops_total": 5,
        "proscale_bulk_baseline_flops_total": 7,
    }
    with socket.socket() as free:  # the port is free again
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
