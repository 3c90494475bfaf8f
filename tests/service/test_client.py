from pathlib import Path

import httpx
import numpy as np
import pytest

from proscale_service.client import Answer, Client, picture_bytes
from proscale_service.errors import InvalidParameter, Overloaded, ServiceError, TooManyPixels, UndecodableImage

from .pictures import blob, encoded, gradient, png_header
from .serving import Running

BOX = (10, 20, 30, 25)


def answered(status: int, *, headers: dict[str, str] | None = None, **content: object) -> Client:
    """A client of a server that always says the same."""
    return Client("http://x", transport=httpx.MockTransport(lambda request: httpx.Response(status, headers=headers, **content)))


def test_masks_come_as_arrays(server: Running, tmp_path: Path) -> None:
    picture = blob(box=BOX)
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture))
    with Client(server.url) as client:
        for given in (picture, encoded(picture), path, str(path)):
            answer = client.segment(given, labels="blob", request_id="mine")
            (segment,) = answer.segments
            assert segment.mask.dtype == bool
            np.testing.assert_array_equal(segment.mask, picture[:, :, 0] > 127)
            assert (segment.label, segment.bbox, segment.area) == ("blob", BOX, segment.mask.sum())
            assert answer.size == picture.shape[:2]
            assert answer.raw["id"] == "mine"


def test_several_tasks(server: Running) -> None:
    with Client(server.url) as client:
        answer = client.segment(blob(), task=["panoptic", "semantic"])
    assert set(answer.results) == {"panoptic", "semantic"}
    with pytest.raises(ValueError, match="several tasks"):
        _ = answer.segments


@pytest.mark.parametrize(
    ("picture", "options", "error"),
    [
        (b"no picture", {}, UndecodableImage),
        (png_header(20000, 20000), {}, TooManyPixels),
        (encoded(blob()), {"threshold": 7}, InvalidParameter),
        (encoded(blob()), {"labels": ["nothing"]}, InvalidParameter),
    ],
)
def test_errors_are_the_servers(server: Running, picture: bytes, options: dict[str, object], error: type[ServiceError]) -> None:
    with Client(server.url) as client, pytest.raises(error) as caught:
        client.segment(picture, **options)
    assert caught.value.request_id


def test_retry_after_is_told() -> None:
    client = answered(429, headers={"retry-after": "7"}, json={"type": "urn:proscale:problem:overloaded", "detail": "full"})
    with client, pytest.raises(Overloaded, match="full") as caught:
        client.segment(b"x")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("content", [{"text": "<html>Bad gateway</html>"}, {"json": [1]}, {"content": b""}])
def test_answers_of_proxies_are_errors_too(content: dict[str, object]) -> None:
    with answered(502, **content) as client, pytest.raises(ServiceError, match="502"):
        client.segment(b"x")


def test_plan_models_ready(server: Running) -> None:
    with Client(server.url) as client:
        assert client.plan(50, 70)["compute"]["padded_size"] == [64, 96]
        assert client.models()[0]["name"] == "threshold"
        assert client.ready()
    with Client("http://127.0.0.1:1") as nobody:
        assert not nobody.ready()


def test_arrays_become_lossless_files() -> None:
    from proscale_service.images import decode

    np.testing.assert_array_equal(decode(picture_bytes(gradient()), 10_000)[0], gradient())


def test_an_answer_knows_its_tasks() -> None:
    assert Answer({"panoptic": ()}, {}).segments == ()
