"""What the tests of the routes ask with, and how a refusal has to look."""

import base64
from typing import Any

import httpx

from ..pictures import blob, encoded
from ..serving import Running, http

BOX = (10, 20, 30, 25)
PICTURE = encoded(blob(box=BOX))
OCTETS = {"content-type": "application/octet-stream"}


def post(server: Running, content: Any = PICTURE, path: str = "/segment", kind: str = "image/png", **query: Any) -> httpx.Response:
    return http.post(f"{server.url}{path}", content=content, params=query, headers={"content-type": kind})


def in_json(server: Running, path: str = "/segment", **values: Any) -> httpx.Response:
    return http.post(f"{server.url}{path}", json=values)


def base64_of(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


def problem(response: httpx.Response, status: int, kind: str) -> str:
    """The detail of a problem that is as it should be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    assert (body["status"], body["type"]) == (status, f"urn:proscale:problem:{kind}")
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    detail: str = body["detail"]
    return detail


def comparable(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return {name: value for name, value in body.items() if name not in ("id", "timings_ms")}
