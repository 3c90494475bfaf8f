import gzip

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale_service.compression import qualities

from .routes.asking import problem
from .serving import Running, http


def asked(server: Running, *accepted: str, path: str = "/openapi.json", method: str = "GET") -> httpx.Response:
    headers = [("accept-encoding", value) for value in accepted] or [("accept-encoding", "")]
    with httpx.Client(timeout=60) as client, client.stream(method, f"{server.url}{path}", headers=headers) as response:
        response._content = b"".join(response.iter_raw())  # as it came, not decompressed
        return response


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        (["gzip"], True),
        (["GZip"], True),
        (["x-gzip"], True),
        (["gzip;q=0.001"], True),
        (["gzip; q=0.5"], True),
        (["gzip ;q=1.000"], True),
        (["br, gzip"], True),
        (["br;q=1.0, gzip;q=0.2, *;q=0"], True),
        (["*"], True),
        (["*;q=0.1"], True),
        (["br"], False),
        (["deflate, br"], False),
        (["identity;q=0, gzip"], True),
        (["identity;q=0.5, gzip;q=0.5"], True),
        (["deflate", "gzip"], True),
        (["gzip;q=0"], False),
        (["gzip;q=0.0"], False),
        (["gzip;q=0.000, *"], False),
        (["gzip;q=0, *;q=1"], False),
        (["identity, gzip;q=0.5"], False),
        (["identity;q=1, *;q=0.5"], False),
        (["notgzip"], False),
        (["gzipped;q=1"], False),
        (["gzip;q=7"], False),
        (["gzip;q=no"], False),
        (["identity"], False),
        ([""], False),
        ([], False),
        ([",;q=1, ,"], False),
    ],
)
def test_gzip_is_used_if_the_client_accepts_it(server: Running, accepted: list[str], compressed: bool) -> None:
    response = asked(server, *accepted)
    assert response.status_code == 200
    assert response.headers.get("content-encoding") == ("gzip" if compressed else None)
    body = gzip.decompress(response.content) if compressed else response.content
    assert body == http.get(f"{server.url}/openapi.json").content
    assert int(response.headers["content-length"]) == len(response.content)
    assert "accept-encoding" in response.headers["vary"].lower()


def test_short_answers_are_not_compressed_if_the_client_allows_it(server: Running) -> None:
    short = asked(server, "gzip", path="/health/live")
    assert "content-encoding" not in short.headers
    assert "accept-encoding" in short.headers["vary"].lower()
    forced = asked(server, "gzip, identity;q=0", path="/health/live")
    assert gzip.decompress(forced.content) == short.content
    assert forced.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("accepted", ["identity;q=0", "*;q=0", "br, *;q=0", "identity;q=0, gzip;q=0", "deflate, identity;q=0"])
def test_a_client_that_accepts_no_encoding_gets_406(server: Running, accepted: str) -> None:
    for path in ("/models", "/health/live"):
        detail = problem(http.get(f"{server.url}{path}", headers={"accept-encoding": accepted}), 406, "not-acceptable")
        assert "gzip" in detail


def test_problems_are_negotiated_too(server: Running) -> None:
    refused = asked(server, "gzip, identity;q=0", path="/nothing")
    assert refused.status_code == 404
    assert b"about:blank" in gzip.decompress(refused.content)


def test_pictures_and_parts_are_not_compressed(server: Running) -> None:
    assert "content-encoding" not in asked(server, "gzip", path="/docs/assets/favicon.png").headers
    with httpx.Client() as client:
        part = client.get(f"{server.url}/docs/assets/swagger-ui.css", headers={"accept-encoding": "gzip", "range": "bytes=0-4999"})
    assert part.status_code == 206
    assert "content-encoding" not in part.headers


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_any_header_gives_qualities(header: str) -> None:
    for quality in qualities(header):
        assert 0 <= quality <= 1


@given(st.permutations(["gzip;q=0.3", "br", "identity;q=0.2", "*;q=0.1"]))
def test_the_order_does_not_matter(parts: list[str]) -> None:
    assert qualities(", ".join(parts)) == (0.3, 0.2)
