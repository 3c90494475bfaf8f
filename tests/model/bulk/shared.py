"""What tests of bulk jobs share: entry points as pyproject.toml declares them, and how rows are compared."""

import io
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from proscale.results import RLE
from proscale.rle import decode

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def declared(group: str, name: str) -> list[EntryPoint]:
    """In place of `importlib.metadata.entry_points`, also where an older state of the package is installed."""
    points = tomllib.loads(PROJECT.read_text())["project"]["entry-points"][group]
    return [EntryPoint(name, points[name], group)]


def assert_same_rows(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Everything is equal, but for scores' last digit, and a pixel in 10,000: which pictures are computed together decides how sums are
    rounded, and so on which side of a threshold a pixel falls that is at it."""
    rounded = {"score": None, "bbox": None, "area": None, "counts": None}
    bare = [[row | {"segments": [s | rounded for s in row["segments"] or ()], "files": None} for row in each] for each in (rows, others)]
    assert bare[0] == bare[1]
    for row, other in zip(rows, others, strict=True):
        size = row["height"], row["width"]
        for segment, its_twin in zip(row["segments"] or (), other["segments"] or (), strict=True):
            assert segment["score"] == pytest.approx(its_twin["score"], abs=1e-5)
            masks = [decode(RLE(size, each["counts"])) for each in (segment, its_twin)]
            assert_nearly_all_equal(*masks)
            for each, mask in zip((segment, its_twin), masks, strict=True):
                assert each["area"] == mask.sum()
        files, twins = (each.get("files") or () for each in (row, other))
        assert [file["name"] for file in files] == [file["name"] for file in twins]
        for file, twin in zip(files, twins, strict=True):
            if file["data"] != twin["data"]:
                assert file["name"].endswith(".png")
                assert_nearly_all_equal(*(np.asarray(Image.open(io.BytesIO(each["data"]))) for each in (file, twin)))


def assert_nearly_all_equal(mask: np.ndarray, other: np.ndarray) -> None:
    """All but one pixel in 10,000, or one."""
    assert mask.shape == other.shape
    differs = mask != other
    assert np.atleast_3d(differs).any(-1).sum() <= max(1, differs.size // 10_000)
