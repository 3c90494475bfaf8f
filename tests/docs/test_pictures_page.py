"""docs/http.md says of pictures what the reader does."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.model.pictures.tiffs import tiff

from proscale.errors import UndecodablePictureError
from proscale.pictures import FORMATS, INTENSITY_PATTERN, parse_intensity, read_picture
from proscale.pictures.formats import INSTALL
from proscale.pictures.intensity import PERCENTILES

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
ROWS = dict(
    re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", PAGE[PAGE.index("## How pictures are read") : PAGE.index("## Masks")], re.MULTILINE)
)


def test_formats_are_those_that_are_read() -> None:
    assert ROWS["formats"].upper().startswith(", ".join(FORMATS))
    assert any(INSTALL in row for row in ROWS.values())


def test_depths_of_tiffs_are_those_that_are_read() -> None:
    least, most = map(int, re.findall(r"\d+", ROWS["TIFF"].split("samples of")[1].split("bits")[0]))
    read = set()
    for bits in range(1, 20):
        try:
            read_picture(tiff(np.zeros((4, 8), np.uint32 if bits > 16 else np.uint16 if bits > 8 else np.uint8), 1, bits), 1000)
            read.add(bits)
        except UndecodablePictureError:
            pass
    assert read == set(range(least, most + 1))


def test_intensities_are_those_that_are_taken() -> None:
    text = PAGE[PAGE.index("The parameter `intensity`") :].split("\n## ")[0]
    for name in ("full", "minmax", "percentile", "0,4095"):
        assert f"`{name}`" in text
        assert re.match(INTENSITY_PATTERN, name)
        assert parse_intensity(name)
    assert all(f"{percentile}%" in text for percentile in PERCENTILES)


@pytest.mark.parametrize(
    "kind", ["a transparent colour (`tRNS`)", "colour profiles (ICC)", "a JPEG with a hole, or cut off", "two files glued together"]
)
def test_kinds_that_users_ask_about_have_a_row(kind: str) -> None:
    assert ROWS[kind]
