"""Where a job's pictures come from: folders, patterns, lists, tars, Parquet, stores; and what is said of those that cannot be read."""

import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from proscale.bulk.listing import list_pictures
from proscale.bulk.pictures import Picture, pictures_of, read_bytes
from proscale.bulk.segmenter import PictureSegmenter
from proscale.errors import DataError, PictureError
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig

NAMES = ("a b.png", "broken.jpg", "sub/c.png")


@pytest.fixture
def folder(tmp_path: Path, picture: np.ndarray) -> Path:
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    Image.fromarray(picture).save(inside / "a b.png")
    Image.fromarray(picture[::-1]).save(inside / "sub/c.png")
    (inside / "broken.jpg").write_text("no picture")
    (inside / "notes.md").write_text("not looked at")
    return inside


def paths(*sources: object) -> list[str]:
    return [picture.path for picture in list_pictures([str(source) for source in sources])]


def shard(path: Path, folder: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(folder / name, name)
            archive.addfile(tarfile.TarInfo(f"{name}.json"))
    return path


def test_folders_patterns_and_lists(folder: Path, tmp_path: Path) -> None:
    everything = [str(folder / name) for name in NAMES]
    assert paths(folder) == everything
    assert paths(f"{folder}/*.png") == everything[:1]
    assert paths(f"{folder}/**/*.png") == [everything[0], everything[2]]
    assert paths(folder, everything[0]) == everything
    (tmp_path / "list.txt").write_text("\n".join(everything) + "\n\n")
    assert paths(tmp_path / "list.txt") == everything
    pyarrow.parquet.write_table(pyarrow.table({"path": everything}), tmp_path / "list.parquet")
    assert paths(tmp_path / "list.parquet") == everything


def test_uris_of_pyarrow(folder: Path) -> None:
    found = list_pictures([f"file://{folder}"])
    assert [picture.path for picture in found] == [f"file://{folder}/{name}" for name in NAMES]
    assert read_bytes(found[0]) == (folder / NAMES[0]).read_bytes()
    assert paths(f"file://{folder}/**/*.png") == [found[0].path, found[2].path]
    assert paths(f"file://{folder}/s?[a-z]/*") == [found[2].path]
    assert read_bytes(Picture((folder / NAMES[0]).as_uri())) == (folder / NAMES[0]).read_bytes(), "a%20b"


def test_uris_of_fsspec(folder: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({f"/bucket/{name}": (folder / name).read_bytes() for name in NAMES})
    found = list_pictures(["memory://bucket"])
    assert [picture.path for picture in found] == [f"memory://bucket/{name}" for name in NAMES]
    assert read_bytes(found[2]) == (folder / NAMES[2]).read_bytes()
    assert paths("memory://bucket/*.png") == ["memory://bucket/a b.png"]


def test_tars_as_webdataset_writes_them(folder: Path, tmp_path: Path) -> None:
    first = shard(tmp_path / "shard-00.tar", folder, NAMES[0], NAMES[1])
    second = shard(tmp_path / "shard-01.tar", folder, NAMES[2])
    expected = [f"{first}::{NAMES[0]}", f"{first}::{NAMES[1]}", f"{second}::{NAMES[2]}"]
    for source in (f"{tmp_path}/shard-{{00..01}}.tar", f"{tmp_path}/*.tar", f"file://{tmp_path}/shard-0?.tar"):
        found = list_pictures([source])
        assert [picture.path.removeprefix("file://") for picture in found] == expected
        assert [read_bytes(picture) for picture in found] == [(folder / name).read_bytes() for name in NAMES]
    shards = tmp_path / "shards"
    shards.mkdir()
    first.rename(shards / "a.tar")
    assert paths(shards) == [f"{shards}/a.tar::{name}" for name in NAMES[:2]]


@pytest.mark.parametrize("kind", ["bytes", "image", "struct", "named"])
def test_parquet_with_bytes(folder: Path, tmp_path: Path, kind: str) -> None:
    data = [(folder / name).read_bytes() for name in NAMES] + [None]
    columns = {
        "bytes": {"bytes": data},
        "image": {"image": data},
        "struct": {"label": [1, 2, 3, 4], "image": [{"bytes": each, "path": None} for each in data]},
        "named": {"path": [*NAMES, "none"], "bytes": data},
    }[kind]
    file = tmp_path / "pictures.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=2)
    found = list_pictures([str(file)])
    assert [each.path for each in found] == ([*NAMES, "none"] if kind == "named" else [f"{file}::{row}" for row in range(4)])
    assert [read_bytes(picture) for picture in found[:3]] == data[:3]
    with pytest.raises(PictureError, match=r"row 3 of .* has no bytes"):
        read_bytes(found[3])


def test_actors_read_out_of_tars(folder: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    found = list_pictures([str(shard(tmp_path / "s.tar", folder, *NAMES))])
    columns = {name: np.array(values, object) for name, values in zip(Picture._fields, zip(*found, strict=True), strict=True)}
    assert pictures_of(columns) == found
    segmenter = PictureSegmenter(RuntimeConfig(checkpoint=small_checkpoint), SegmentationOptions(), "off", "full", 10**6)
    rows = segmenter(columns).to_pylist()
    plain = segmenter({"path": np.array([str(folder / name) for name in NAMES], object)}).to_pylist()
    assert [row["path"] for row in rows] == [picture.path for picture in found]
    assert [row | {"path": ""} for row in rows] == [row | {"path": ""} for row in plain]


def test_a_file_that_changes_under_the_job_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = shard(tmp_path / "s.tar", folder, *NAMES)
    (picture, *_) = list_pictures([str(tar)])
    shard(tar, folder, NAMES[2])
    with pytest.raises(PictureError, match=r"s\.tar was changed after it was listed"):
        read_bytes(picture)

    class Growing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            with open(self.name, "ab") as writer:
                writer.write(b"more")
            return super().read(-1 if size is None else size)

    monkeypatch.setattr("proscale.bulk.pictures.open", lambda name, mode: Growing(name), raising=False)
    with pytest.raises(PictureError, match="changed while it was read"):
        read_bytes(Picture(str(folder / NAMES[0])))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere is not there"),
        ("empty", "empty holds no picture"),
        ("file:///nowhere/at/all", "cannot be listed"),
        ("wrong.parquet", "no column `path` with paths, and none of bytes"),
        ("broken.parquet", "is no Parquet file"),
        ("broken.tar", "is no tar, or a broken one"),
        ("half.tar", "is no tar, or a broken one"),
        ("x.tar.gz", "unpack it"),
        ("{9..1}.jpg", "must go up"),
        ("nonsense://x/y", "neither pyarrow nor fsspec reads nonsense://"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"name": ["x"]}), tmp_path / "wrong.parquet")
    for name in ("broken.parquet", "broken.tar", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"nonsense" * 100)
    whole = shard(tmp_path / "half.tar", folder, *NAMES)
    whole.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(DataError, match=message) as caught:
        list_pictures([source])
    assert source in str(caught.value)
