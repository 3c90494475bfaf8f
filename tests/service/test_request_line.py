"""HEAD, a proxy's path prefix, and other origins, with a real server."""

from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from proscale_service.client import Client
from proscale_service.settings import Settings

from .pictures import blob
from .predictors import ThresholdPredictor
from .routes.asking import PICTURE
from .serving import Running, http, metric, serving, until

READABLE = [
    "/health/live",
    "/health/startup",
    "/health/ready",
    "/metrics",
    "/models",
    "/docs",
    "/openapi.json",
    "/",
    "/docs/assets/favicon.png",
]


@pytest.mark.parametrize("path", READABLE)
def test_head_has_the_headers_of_get_and_no_body(server: Running, path: str) -> None:
    with httpx.Client(base_url=server.url) as client:
        got, head, after = client.get(path), client.head(path), client.get(path)
    assert head.status_code == got.status_code == after.status_code
    assert head.content == b""
    differs = {"x-request-id", "date"} | ({"content-length"} if path == "/metrics" else set())
    assert {n: v for n, v in head.headers.items() if n not in differs} == {n: v for n, v in got.headers.items() if n not in differs}


def test_head_has_the_status_of_get_for_errors_too(server: Running) -> None:
    assert httpx.head(f"{server.url}/nothing").status_code == 404
    refused = httpx.head(f"{server.url}/segment")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")
    assert http.delete(f"{server.url}/models").headers["allow"] == "GET, HEAD"
    with serving(ThresholdPredictor()) as draining:
        draining.pipeline.lifecycle.begin_drain()
        assert httpx.head(f"{draining.url}/health/ready").status_code == 503


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Running]:
    with serving(ThresholdPredictor(), root_path="/vision/masks/") as running:
        yield running


@pytest.mark.parametrize("prefix", ["", "/vision/masks"])
def test_a_prefix_may_be_cut_off_by_the_proxy_or_not(prefixed: Running, prefix: str) -> None:
    for path in READABLE:
        assert http.get(f"{prefixed.url}{prefix}{path}", follow_redirects=False).status_code == 200, path
    with Client(prefixed.url + prefix) as client:
        assert client.segment(blob()).segments
    counted = 'proscale_requests_total{status="200",task="panoptic"}'
    before = metric(prefixed.url, counted)
    assert http.post(f"{prefixed.url}{prefix}/segment", content=PICTURE).is_success
    until(lambda: metric(prefixed.url, counted) == before + 1)
    assert http.get(f"{prefixed.url}{prefix}/nothing").json()["instance"] == "/vision/masks/nothing"


def test_paths_in_answers_have_the_prefix(prefixed: Running) -> None:
    # The page's links are relative: they need the slash.
    assert http.get(f"{prefixed.url}/vision/masks", follow_redirects=False).headers["location"] == "/vision/masks/"
    with serving(ThresholdPredictor(), root_path="/vision/masks", page=False) as without:
        assert http.get(f"{without.url}/", follow_redirects=False).headers["location"] == "/vision/masks/docs"
    assert http.get(f"{prefixed.url}/openapi.json").json()["servers"] == [{"url": "/vision/masks"}]
    page = http.get(f"{prefixed.url}/docs").text
    assert "'/vision/masks/openapi.json'" in page
    assert '"/vision/masks/docs/assets/swagger-ui-bundle.js"' in page


def test_a_similar_prefix_is_not_accepted(prefixed: Running) -> None:
    assert http.get(f"{prefixed.url}/vision/masksx/models").status_code == 404
    assert http.get(f"{prefixed.url}/vision/models").status_code == 404


@pytest.mark.parametrize("value", ["vision", "https://x/y", "/a b", "/a?b", "/a#b", "//", "/segment", "/docs/", "/a//b"])
def test_invalid_prefixes_are_refused(value: str) -> None:
    if value == "//":
        assert Settings(root_path=value).root_path is None
    else:
        with pytest.raises(ValidationError, match="root_path"):
            Settings(root_path=value)


APP = "https://app.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-request-id,authorization,x-api-key"}


def test_other_origins_have_no_access_by_default(server: Running) -> None:
    for response in (
        http.get(f"{server.url}/models", headers={"origin": APP}),
        httpx.options(f"{server.url}/segment", headers={"origin": APP} | PREFLIGHT),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with serving(
        ThresholdPredictor(), cors_origins=f"{APP}, https://*.pages.example, http://localhost:3000", max_upload_bytes=100_000
    ) as running:
        yield running


@pytest.mark.parametrize("origin", [APP, "https://a.pages.example", "https://a.b.pages.example", "http://localhost:3000"])
def test_named_origins_have_access(shared: Running, origin: str) -> None:
    preflight = httpx.options(f"{shared.url}/segment", headers={"origin": origin} | PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert {"content-type", "x-request-id", "authorization", "x-api-key"} <= set(
        preflight.headers["access-control-allow-headers"].split(",")
    )
    answer = http.post(f"{shared.url}/segment", content=PICTURE, headers={"origin": origin})
    assert answer.is_success
    assert answer.headers["access-control-allow-origin"] == origin
    assert {"x-request-id", "retry-after"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert "Origin" in answer.headers["vary"]
    assert "Accept-Encoding" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil",
        "https://pages.example",
        "https://a.pages.example:8",
        "null",
    ],
)
def test_unnamed_origins_have_no_access(shared: Running, origin: str) -> None:
    preflight = httpx.options(f"{shared.url}/segment", headers={"origin": origin} | PREFLIGHT)
    assert preflight.status_code == 400
    for response in (preflight, http.post(f"{shared.url}/segment", content=PICTURE, headers={"origin": origin})):
        assert "access-control-allow-origin" not in response.headers


def test_errors_of_every_layer_can_be_read_by_pages(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    url, headers = shared.url, {"origin": APP}
    answers = {
        400: http.post(f"{url}/segment", headers=headers),
        404: http.get(f"{url}/nothing", headers=headers),
        405: http.get(f"{url}/segment", headers=headers),
        406: http.get(f"{url}/models", headers=headers | {"accept-encoding": "*;q=0"}),
        413: http.post(f"{url}/segment", content=bytes(200_000), headers=headers),
        422: http.post(f"{url}/segment?task=x", content=PICTURE, headers=headers),
    }

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(type(shared.pipeline.models.find().engine.backlog), "expected_seconds", broken)
    answers[500] = http.post(f"{url}/segment/plan?width=1&height=1", headers=headers)
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["x-request-id"]


def test_a_star_allows_all_origins() -> None:
    with serving(ThresholdPredictor(), cors_origins="*") as server:
        answer = http.get(f"{server.url}/models", headers={"origin": "https://anyone.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "value", ["app.example", "https://app.example/", "https://app.example/path", "ftp://x", "https://*", "https://a*.example"]
)
def test_invalid_origins_are_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(cors_origins=value)
