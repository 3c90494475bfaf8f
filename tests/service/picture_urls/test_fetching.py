"""Pictures and attacks from real servers on this machine; only the resolver says what no real one could be made to say."""

import asyncio
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from proscale_service.errors import BodyTooLarge, Overloaded, ServiceError, UnfetchablePicture
from proscale_service.picture_urls import fetching
from proscale_service.picture_urls.fetching import Fetcher
from proscale_service.picture_urls.rules import UrlRules

from ..pictures import blob, encoded

PICTURE = encoded(blob())
OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"
"""Two addresses of this machine: one stands for the public internet, the other for what is only inside."""


def answer(status: str = "200 OK", body: bytes = PICTURE, **headers: str) -> bytes:
    lines = {"content-length": str(len(body)), "connection": "close"} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class Host:
    """A server that says the same to everybody, and remembers what it was asked."""

    def __init__(self, address: str, says: bytes | Callable[[socket.socket], None]) -> None:
        self.asked: list[bytes] = []
        self._says = says
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                head += chunk
            self.asked.append(head)
            if callable(self._says):
                self._says(connection)
            else:
                connection.sendall(self._says)


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(says: bytes | Callable[[socket.socket], None] = b"", address: str = OUTSIDE) -> Host:
        made.append(Host(address, says or answer()))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What a resolver says to each name, one answer after the other; the last one stays."""
    told: dict[str, list[list[str]]] = {}
    real = fetching.resolve

    async def resolve(host: str, port: int) -> list[str]:
        if host not in told:
            return await real(host, port)
        return told[host].pop(0) if len(told[host]) > 1 else told[host][0]

    monkeypatch.setattr(fetching, "resolve", resolve)
    return told


def rules(**more: object) -> UrlRules:
    given: dict[str, object] = {
        "schemes": ("https", "http"),
        "hosts": ("*:*", "[*]:*"),
        "networks": (ipaddress.ip_network(f"{OUTSIDE}/32"),),
        "timeout_s": 10.0,
    }
    return UrlRules(**(given | more))


async def fetch(url: str, **more: object) -> bytes:
    return await Fetcher(rules(**more), 8).fetch(url)


async def refused(url: str, error: type[ServiceError] = UnfetchablePicture, **more: object) -> str:
    with pytest.raises(error) as caught:
        await fetch(url, **more)
    return str(caught.value)


async def test_a_picture_is_fetched_without_revealing_anything_to_its_host(host: Callable[..., Host]) -> None:
    server = host()
    assert await fetch(f"http://{OUTSIDE}:{server.port}/a%20b/größe.png?x=1#fragment") == PICTURE
    (asked,) = server.asked
    assert asked.startswith(b"GET /a%20b/gr%C3%B6%C3%9Fe.png?x=1 HTTP/1.1\r\n")
    assert b"host: %s:%d\r\n" % (OUTSIDE.encode(), server.port) in asked.lower()
    assert not any(word in asked.lower() for word in (b"cookie", b"authorization", b"api-key", b"referer", b"forwarded"))


async def test_chunked_bodies_are_read_and_endless_ones_refused(host: Callable[..., Host]) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)
    assert await fetch(f"http://{OUTSIDE}:{host(chunked).port}/") == PICTURE
    until_closed = b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE
    assert await fetch(f"http://{OUTSIDE}:{host(until_closed).port}/") == PICTURE

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(100_000))

    assert "more than the limit of 300000 bytes" in await refused(
        f"http://{OUTSIDE}:{host(endless).port}/", BodyTooLarge, max_bytes=300_000
    )
    announced = answer(body=b"", content_length="400000")
    assert "more than the limit of 300000 bytes" in await refused(
        f"http://{OUTSIDE}:{host(announced).port}/", BodyTooLarge, max_bytes=300_000
    )


async def test_slow_hosts_time_out(host: Callable[..., Host]) -> None:
    silent = threading.Event()

    def slow(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not silent.wait(0.05):
            connection.sendall(b"x")

    for says in (slow, lambda connection: silent.wait(5)):
        assert "within 0.4 seconds" in await refused(f"http://{OUTSIDE}:{host(says).port}/", timeout_s=0.4)
    silent.set()


@pytest.mark.parametrize(
    "says",
    [
        answer("404 Not Found"),
        answer("204 No Content", b""),
        answer("206 Partial Content"),
        answer("500 Oops"),
        answer("304 Not Modified", b""),
        answer(content_encoding="gzip"),
        answer(content_length=str(len(PICTURE) + 1)),
        b"220 smtp ready\r\n",
        b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_picture_is_an_error_of_ours(host: Callable[..., Host], says: bytes) -> None:
    await refused(f"http://{OUTSIDE}:{host(says).port}/")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://127。0。0。1:{port}/",
     "http://0.0.0.0:{port}/", "http://[::]:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0x7f.1:{port}/", "http://0177.0.0.1:{port}/",
     "http://017700000001:{port}/", "http://127.1:{port}/", "http://[64:ff9b::127.0.0.1]:{port}/", "http://[2002:7f00:1::]:{port}/", "http://[::1]:{port}/",
     "http://[::127.0.0.1]:{port}/", "http://LOCALHOST.:{port}/", "http://x@127.0.0.1:{port}/", "http://127.0.0.1:{port}\\@example.org/",
     "gopher://127.0.0.1:{port}/_GET%20/", "file://127.0.0.1:{port}/etc/passwd", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/",
     "http://100.100.100.200/", "http://metadata.google.internal/"],
)  # fmt: skip
async def test_private_addresses_cannot_be_reached(host: Callable[..., Host], url: str) -> None:
    server = host(address=INSIDE)
    await refused(url.format(port=server.port), timeout_s=3.0)
    assert server.asked == []


async def test_every_refusal_of_an_address_reads_alike(host: Callable[..., Host], names: dict[str, list[list[str]]]) -> None:
    open_port = host(address=INSIDE).port
    names |= {"inside.example": [[INSIDE]], "nobody.example": [[]]}
    told = {
        await refused(url)
        for url in (f"http://{INSIDE}:{open_port}/", f"http://{INSIDE}:1/", f"http://inside.example:{open_port}/", "http://nobody.example/",
                    f"http://{OUTSIDE}:1/", "http://no-such-name.invalid/")
    }  # fmt: skip
    assert len(told) == 1


async def test_a_name_is_resolved_once_and_that_address_is_connected_to(
    host: Callable[..., Host], names: dict[str, list[list[str]]]
) -> None:
    """Rebinding: the first answer is public, the next one is not."""
    server = host()
    inside = host(answer(body=b"secret"), INSIDE)
    names["rebinding.example"] = [[OUTSIDE], [INSIDE]]
    assert await fetch(f"http://rebinding.example:{server.port}/") == PICTURE
    assert b"host: rebinding.example:" in server.asked[0].lower()
    assert "public address" in await refused(f"http://rebinding.example:{inside.port}/")
    assert inside.asked == []


@pytest.mark.parametrize("order", [[OUTSIDE, INSIDE], [INSIDE, OUTSIDE], ["8.8.8.8", "::1"], ["nonsense"]])
async def test_a_name_with_one_private_address_is_refused(
    host: Callable[..., Host], names: dict[str, list[list[str]]], order: list[str]
) -> None:
    server = host()
    names["mixed.example"] = [order]
    assert "public address" in await refused(f"http://mixed.example:{server.port}/")
    assert server.asked == []


async def test_the_next_address_is_tried_when_one_does_not_answer(host: Callable[..., Host], names: dict[str, list[list[str]]]) -> None:
    server = host()
    names["two.example"] = [["127.0.0.3", OUTSIDE]]
    networks = (ipaddress.ip_network("127.0.0.2/31"),)
    assert await fetch(f"http://two.example:{server.port}/", networks=networks) == PICTURE


def redirect(target: str, status: str = "302 Found") -> bytes:
    return answer(status, b"", location=target)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed(host: Callable[..., Host], status: str) -> None:
    last = host()
    assert await fetch(f"http://{OUTSIDE}:{host(redirect(f'http://{OUTSIDE}:{last.port}/x', status)).port}/") == PICTURE
    assert last.asked[0].startswith(b"GET /x ")


@pytest.mark.parametrize(
    "target",
    ["http://{inside}/", "//{inside}/", "http://169.254.169.254/latest/meta-data/iam/", "http://[::ffff:{inside_hex}]:{port}/", "http://2130706433:{port}/",
     "gopher://{inside}/_x", "file:///etc/passwd", "ftp://{inside}/", "data:image/png;base64,AAAA", "http://user:password@{outside}/", "http://inside.example:{port}/",
     "\\\\\\\\{inside}/", "http:\\\\\\\\{inside}/", "http://{inside}\\t/", "javascript:alert(1)"],
)  # fmt: skip
async def test_redirects_to_forbidden_urls_are_refused(host: Callable[..., Host], names: dict[str, list[list[str]]], target: str) -> None:
    inside = host(address=INSIDE)
    names["inside.example"] = [[INSIDE]]
    where = target.format(inside=f"{INSIDE}:{inside.port}", outside=f"{OUTSIDE}:{inside.port}", port=inside.port, inside_hex="7f00:1")
    await refused(f"http://{OUTSIDE}:{host(redirect(where)).port}/", timeout_s=3.0)
    assert inside.asked == []


async def test_redirects_are_counted_and_judged_by_the_lists(host: Callable[..., Host]) -> None:
    around = Host(OUTSIDE, b"")
    around._says = redirect(f"http://{OUTSIDE}:{around.port}/again")
    assert "redirects more than 3 times" in await refused(f"http://{OUTSIDE}:{around.port}/")
    assert len(around.asked) == 4
    last = host()
    first = host(redirect(f"http://{OUTSIDE}:{last.port}/"))
    assert "is not allowed here" in await refused(f"http://{OUTSIDE}:{first.port}/", hosts=(f"{OUTSIDE}:{first.port}",))
    assert last.asked == []
    around.close()


async def test_fetches_are_bounded_and_counted(host: Callable[..., Host]) -> None:
    wait = threading.Event()

    def late(connection: socket.socket) -> None:
        wait.wait(20)
        connection.sendall(answer())

    url = f"http://{OUTSIDE}:{host(late).port}/"
    fetcher = Fetcher(rules(), 2)
    running = [asyncio.create_task(fetcher.fetch(url)) for _ in range(2)]
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded):
        await fetcher.fetch(url)
    wait.set()
    assert await asyncio.gather(*running) == [PICTURE, PICTURE]
    claimed: list[int] = []
    assert await fetcher.fetch(url, claimed.append) == PICTURE
    assert sum(claimed) == len(PICTURE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there to make certificates with")
async def test_certificates_are_checked_against_the_name(
    tmp_path: Path, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=x",
    ]
    command += ["-addext", "subjectAltName=DNS:right.example", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(_serve_once, OUTSIDE, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    names |= {"right.example": [[OUTSIDE]], "wrong.example": [[OUTSIDE]]}
    assert "untrusted certificate" in await refused(f"https://right.example:{port}/")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert await fetch(f"https://right.example:{port}/") == PICTURE
    assert "untrusted certificate" in await refused(f"https://wrong.example:{port}/")
    assert "untrusted certificate" in await refused(f"https://{OUTSIDE}:{port}/")
    server.close()


async def _serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answer())
    await writer.drain()
    writer.close()
