import base64
import io
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from proscale_service.client import NO_RETRIES, Answer, Client, picture_bytes
from proscale_service.errors import InvalidParameter, Overloaded, ServiceError, TooManyPixels, UndecodableImage

from ..pictures import blob, encoded, exif, gradient, png_header
from ..predictors import ThresholdPredictor
from ..serving import Running, http, serving

BOX = (10, 20, 30, 25)


def answered(status: int, *, headers: dict[str, str] | None = None, **content: object) -> Client:
    """A client of a server that always says the same."""
    return Client(
        "http://x", retries=NO_RETRIES, transport=httpx.MockTransport(lambda request: httpx.Response(status, headers=headers, **content))
    )


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
    from proscale.pictures import read_picture

    np.testing.assert_array_equal(read_picture(picture_bytes(gradient()), 10_000).rgb, gradient())


def test_an_answer_knows_its_tasks() -> None:
    assert Answer({"panoptic": ()}, {}).segments == ()


@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 1), (64, 96, 3), (64, 96, 4)])
def test_arrays_of_every_shape_are_segmented(server: Running, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.uint8)
    array[20:45, 10:40] = 255
    if shape[-1] == 4:
        array[..., 3] = 255
    with Client(server.url) as client:
        assert client.segment(array, labels=("blob",)).segments[0].bbox == BOX
        assert client.segment(array[::-1, ::-1][::-1, ::-1]).size == (64, 96)


def test_every_kind_of_picture_is_accepted(tmp_path: Path) -> None:
    data = encoded(gradient())
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with path.open("rb") as opened:
        for given in (data, bytearray(data), memoryview(data), memoryview(data)[:], io.BytesIO(data), opened, path, str(path)):
            assert picture_bytes(given) == data


def in_mode(mode: str) -> Image.Image:
    image = Image.new("RGBA", (5, 4), (10, 200, 30, 255))
    if mode == "I;16":
        return Image.new(mode, image.size, 40000)
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "La", "RGBa"])
def test_pil_images_of_every_mode_become_files(mode: str) -> None:
    image = in_mode(mode)
    with Image.open(io.BytesIO(picture_bytes(image))) as sent:
        assert sent.size == (5, 4)
        if mode == "I;16":
            assert sent.getpixel((0, 0)) == 40000
        else:
            wanted = (
                image.convert("LA").convert("RGB") if mode == "La" else image.convert("RGB" if mode != "RGBa" else "RGBA").convert("RGB")
            )
            np.testing.assert_allclose(np.asarray(sent.convert("RGB"), int), np.asarray(wanted, int), atol=1)


def test_a_pil_image_is_sent_as_its_pixels_are() -> None:
    turned = Image.open(io.BytesIO(encoded(blob(), "JPEG", exif=exif(6))))
    with Image.open(io.BytesIO(picture_bytes(turned))) as sent:
        assert sent.size == turned.size
        assert not sent.getexif()


def test_text_files_closed_buffers_and_other_objects_have_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    spent = io.BytesIO()
    spent.write(encoded(blob()))
    with (tmp_path / "a.txt").open() as text:
        for given, error, words in [
            (text, TypeError, "opened? .*'rb'|open it with 'rb'"),
            (spent, ValueError, "seek"),
            (None, TypeError, "NoneType"),
            ([1, 2], TypeError, "a PIL image, or a numpy array"),
            (np.zeros((4, 5), np.float32), TypeError, "uint8, .*float32"),
            (np.zeros((4, 5), bool), TypeError, "bool"),
            (np.zeros((3, 40, 50), np.uint8), ValueError, "channels come last"),
            (np.zeros((2, 40, 50, 3), np.uint8), ValueError, "one picture at a time"),
            (np.zeros((4, 5, 2), np.uint8), ValueError, r"\(4, 5, 2\)"),
            (np.zeros((0, 5), np.uint8), ValueError, "no pixels"),
            (np.zeros((), np.uint8), ValueError, "must be"),
            (Image.new("F", (3, 3)), ValueError, "'F'"),
            (torch.zeros(3, 3, dtype=torch.uint8), TypeError, "numpy"),
        ]:
            with pytest.raises(error, match=words):
                picture_bytes(given)
    with pytest.raises(FileNotFoundError):
        picture_bytes(tmp_path / "nothing.png")


def test_an_empty_list_of_labels_means_what_it_means_in_json(server: Running) -> None:
    data = {"base64": base64.b64encode(encoded(blob())).decode()}
    for name in ("labels", "task"):
        answer = http.post(f"{server.url}/segment", json={"image": data, name: []})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:proscale:problem:invalid-parameter")
        with Client(server.url) as client, pytest.raises(InvalidParameter, match=f"{name}: "):
            client.segment(blob(), **{name: []})
    with Client(server.url) as client:
        assert client.segment(blob(), labels={"blob"}).segments[0].label == "blob"


class Hasty:
    """A server that answers the first request of a connection and closes it as `then` says when the next one comes."""

    ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"models": []}'

    def __init__(self, first: bytes = ANSWER, then: bytes = b"") -> None:
        self.requests, self.connections = 0, 0
        self._first, self._then = first, then
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            for answer in (self._first, self._then):
                chunk = b""
                while b"\r\n\r\n" not in chunk:
                    chunk = connection.recv(65536)
                    if not chunk:  # the client closed it
                        return
                self.requests += 1
                connection.sendall(answer)
                if not answer:
                    return


def test_a_closed_idle_connection_is_retried() -> None:
    with Hasty() as hasty, Client(hasty.url) as client:
        for _ in range(4):
            assert client.models() == []
        assert hasty.connections == 4
        assert hasty.requests == 7  # three of them met a connection that was about to close


def test_posts_on_closed_idle_connections_are_retried() -> None:
    with Hasty() as hasty, Client(hasty.url) as client:
        for _ in range(3):
            assert client.plan(3, 4) == {"models": []}


@pytest.mark.parametrize("then", [b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabc"])
def test_a_request_with_a_partial_answer_is_not_retried(then: bytes) -> None:
    with Hasty(then=then) as hasty, Client(hasty.url) as client:
        client.models()
        with pytest.raises(httpx.RemoteProtocolError):
            client.models()
        assert (hasty.connections, hasty.requests) == (1, 2)


def test_a_closed_new_connection_is_an_error() -> None:
    with Hasty(first=b"") as hasty, Client(hasty.url) as client:
        with pytest.raises(httpx.TransportError):
            client.models()
        assert hasty.connections == 1


@pytest.mark.slow
def test_connections_stay_open_as_long_as_the_setting_says() -> None:
    with serving(ThresholdPredictor(), keep_alive_s=0.3) as short, serving(ThresholdPredictor()) as long:
        for running, closed in ((short, True), (long, False)):
            address = httpx.URL(running.url)
            with socket.create_connection((address.host, address.port or 80), timeout=6) as connection:
                connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                received = b""
                while b'"ok"' not in received:
                    chunk = connection.recv(65536)
                    assert chunk, "it was closed at once"
                    received += chunk
                if closed:
                    assert connection.recv(1) == b""
                else:  # uvicorn's own 5 seconds are over
                    with pytest.raises(TimeoutError):
                        connection.recv(1)
