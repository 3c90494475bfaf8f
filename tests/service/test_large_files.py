"""`proscale segment --tile` on files that are too large to be decoded as a whole."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.transform import from_origin

from proscale.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(small_checkpoint: Path) -> Run:
    def invoke(*arguments: object, max_pixels: int = 20_000) -> Result:
        environment = {"PROSCALE_MAX_PIXELS": str(max_pixels)}
        return CliRunner().invoke(main, ["segment", "--checkpoint", str(small_checkpoint), *map(str, arguments)], env=environment)

    return invoke


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A georeferenced TIFF of 240 x 320 pixels."""
    path = tmp_path_factory.mktemp("large") / "scene.tif"
    pixels = np.random.default_rng(3).integers(0, 255, (3, 12, 16), np.uint8).repeat(20, 1).repeat(20, 2)
    with rasterio.open(
        path, "w", driver="GTiff", height=240, width=320, count=3, dtype="uint8", crs="EPSG:32632", transform=from_origin(10, 20, 2, 2),
        tiled=True, blockxsize=64, blockysize=64, photometric="rgb",
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def test_a_file_read_in_parts_gives_the_result_of_the_whole(run, scene: Path, tmp_path: Path) -> None:
    parts, whole = tmp_path / "parts.json", tmp_path / "whole.json"
    for path, pixels in ((parts, 20_000), (whole, 200_000)):
        result = run(scene, "--tile", "120,24", "--task", "panoptic", "--task", "semantic", "--json", path, max_pixels=pixels)
        assert result.exit_code == 0, result.output
    first, second = json.loads(parts.read_text()), json.loads(whole.read_text())
    assert first["image"] == second["image"]
    assert first["compute"]["tiles"] == second["compute"]["tiles"]
    for task, segments in first["results"].items():
        assert [s["segmentation"] for s in segments] == [s["segmentation"] for s in second["results"][task]]


def test_streamed_files_lie_where_the_picture_lies(run, scene: Path, tmp_path: Path) -> None:
    result = run(scene, "--tile", "120,24", "--format", "geojson", "--format", "ids_tiff", "--format", "parquet", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scene.tif.panoptic-ids.tif",
        "scene.tif.panoptic.geojson",
        "scene.tif.panoptic.parquet",
    ]
    rows = pyarrow.parquet.read_table(tmp_path / "scene.tif.panoptic.parquet").to_pylist()
    assert f"panoptic: {len(rows)} segments in 12 windows" in result.output
    with rasterio.open(tmp_path / "scene.tif.panoptic-ids.tif") as file:
        assert file.crs.to_string() == "EPSG:32632"
        assert file.transform == from_origin(10, 20, 2, 2)
        ids, counts = np.unique(file.read(1), return_counts=True)
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)).items() >= {row["id"]: row["area"] for row in rows}.items()
    features = json.loads((tmp_path / "scene.tif.panoptic.geojson").read_text())["features"]
    assert len(features) == len(rows)


def test_only_the_best_and_the_large_ones(run, scene: Path, tmp_path: Path) -> None:
    for arguments, limit in ((["--max-segments", 1], 1), (["--min-area", 10**9], 0)):
        assert run(scene, "--tile", "120,24", "--format", "parquet", "--out", tmp_path, *arguments).exit_code == 0
        assert len(pyarrow.parquet.read_table(tmp_path / "scene.tif.panoptic.parquet")) == limit


def test_small_pictures_have_parquet_too(run, scene: Path, tmp_path: Path) -> None:
    assert run(scene, "--format", "parquet", "--out", tmp_path, max_pixels=200_000).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif.panoptic.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overlay", "x.png"], "--overlay needs the whole picture"),
        (["--format", "masks", "--out", "out"], "masks needs the whole picture"),
        (["--fill-holes", 3, "--json", "x.json"], "only --min-area works"),
        (["--json", "x.json", "--tile", "off"], "more than the limit of 20000"),
        (["--json", "x.json", "--tile", "joint"], "joint needs the whole picture"),
    ],
)
def test_options_that_need_the_whole_picture_are_refused(
    run, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    tile = [] if "--tile" in arguments else ["--tile", "120"]
    result = run(scene, *tile, *arguments)
    assert result.exit_code == 1
    assert message in result.output
