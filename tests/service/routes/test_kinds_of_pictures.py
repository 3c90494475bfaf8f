"""What becomes of kinds of pictures over HTTP: the reader's rules reach the answer. The kinds themselves: tests/model/pictures."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from proscale_service.client import Client

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, serving
from .asking import post, problem


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(ThresholdPredictor()) as running:
        yield running


DARK = blob()[:, :, 0].astype(np.uint16) * 16  # 12-bit data in a 16-bit file


def test_a_dark_picture_of_twelve_bits_gets_a_warning_and_can_be_stretched(server: Running) -> None:
    data = encoded(DARK)
    image = post(server, data).json()["image"]
    (warning,) = image["warnings"]
    assert "intensity=0,4095" in warning
    for value in ("minmax", "0,4095"):
        stretched = post(server, data, intensity=value).json()
        assert "warnings" not in stretched["image"]
        assert sum(segment["area"] for segment in stretched["segments"]) >= 30 * 25


def test_ordinary_pictures_have_no_warnings(server: Running) -> None:
    assert post(server).json()["image"].keys() == {"width", "height", "orientation_applied"}


@pytest.mark.parametrize("value", ["auto", "1", "3,x"])
def test_a_wrong_intensity_is_named(server: Running, value: str) -> None:
    assert "intensity" in problem(post(server, encoded(blob()), intensity=value), 422, "invalid-parameter")


def test_floats_are_refused_with_the_remedy_that_works(server: Running) -> None:
    buffer = io.BytesIO()
    Image.fromarray(blob()[:, :, 0].astype(np.float32) / 250).save(buffer, "TIFF")
    assert "intensity=minmax" in problem(post(server, buffer.getvalue()), 422, "undecodable-image")
    assert post(server, buffer.getvalue(), intensity="minmax").status_code == 200


def test_the_client_asks_for_it_and_hands_on_warnings(server: Running) -> None:
    with Client(server.url) as client:
        assert "12 bits" in client.segment(encoded(DARK)).warnings[0]
        assert client.segment(encoded(DARK), intensity="percentile").warnings == ()


def test_a_cut_jpeg_with_an_end_marker_is_422_and_one_without_its_own_is_whole(server: Running) -> None:
    data = encoded(blob(200, 300), "JPEG")
    assert post(server, data[:-2]).status_code == 200
    assert post(server, data[: len(data) * 9 // 10] + b"\xff\xd9").status_code == 422
