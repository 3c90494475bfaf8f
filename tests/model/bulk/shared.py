"""What tests of bulk jobs share: entry points as pyproject.toml declares them, and how rows are compared."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def declared(group: str, name: str) -> list[EntryPoint]:
    """In place of `importlib.metadata.entry_points`, also where an older state of the package is installed."""
    points = tomllib.loads(PROJECT.read_text())["project"]["entry-points"][group]
    return [EntryPoint(name, points[name], group)]


def assert_same_rows(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """Everything is equal, but for scores' last digit: which pictures are computed together decides how sums are rounded."""
    bare = [
        [row | {"segments": [s | {"score": None} for s in row["segments"] or ()], "files": row.get("files")} for row in each]
        for each in (rows, others)
    ]
    assert bare[0] == bare[1]
    scores, expected = ([s["score"] for row in each for s in row["segments"] or ()] for each in (rows, others))
    assert scores == pytest.approx(expected, abs=1e-5)
