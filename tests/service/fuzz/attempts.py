"""Mutated requests: wrong framing, wrong types, wrong parameters, connections that stay half open. All from a seed."""

import base64
import json
import random
import socket
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from .mutants import mutant, originals

PATIENCE_S = 60.0
_PATHS = (
    *["/segment"] * 12,
    *("/segment/batch", "/segment/plan", "/hf", "/infer/instance_segmentation") * 3,
    "/v2/models/proscale/infer",
    *("/models", "/nothing", "/admin/models/x", "/page/../segment", "/%2e%2e/", "/health/live"),
)
_METHODS = (*["POST"] * 60, "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "post", "X" * 40)
_NAMES = (
    *(
        "task",
        "threshold",
        "mask_threshold",
        "overlap_threshold",
        "labels",
        "max_segments",
        "priority",
        "intensity",
        "deadline_ms",
        "model",
    ),
    *("min_area", "fill_holes", "largest_piece", "deduplicate", "merge_labels", "format", "simplify", "affine", "opacity", "outlines"),
    *("width", "height", "image", "images", "names", "tiles", "", "x", "__proto__", "constructor"),
)
_VALUES: tuple[Any, ...] = (
    *(
        "panoptic",
        "instance,semantic",
        "0.5",
        "-1",
        "1e999",
        "nan",
        "inf",
        "true",
        "null",
        "",
        " ",
        "\x00",
        "ü",
        "\ud800".encode("utf-8", "replace").decode(),
    ),
    *(
        "9" * 400,
        "a" * 5000,
        "blob",
        "a=b",
        "=",
        "|",
        "full",
        "0,1,2",
        "json,geojson,masks",
        "1,0,0,0,1,0",
        "[]",
        "{}",
        "../../etc/passwd",
        "%00",
    ),
)
_TYPES = (
    *("image/png", "application/octet-stream", "application/json", "multipart/form-data", "multipart/form-data; boundary=b"),
    *(
        "text/plain",
        "application/x-www-form-urlencoded",
        "image/*",
        "",
        "a" * 3000,
        "application/json; charset=utf-16",
        "application/vnd.x+json",
    ),
)


@dataclass(frozen=True)
class Attempt:
    """What is sent on one connection, and what happens to it then."""

    data: bytes
    end: str
    """`read`: wait for the answer; `shut`: send no more and wait; `leave`: close at once; `reset`: likewise, rudely."""


def attempt(rng: random.Random) -> Attempt:
    """One request, most often a broken one."""
    body, content_type = _body(rng)
    path = rng.choice(_PATHS) + _query(rng)
    method = rng.choice(_METHODS)
    headers = [("host", "x"), ("connection", "close")]
    if rng.random() < 0.95:
        headers.append(("content-type", content_type))
    data, framed = _framed(rng, body)
    headers += framed
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        headers.append(_header(rng))
    head = f"{method} {path} HTTP/1.{rng.choice('1' * 30 + '0')}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    sent = head.encode("utf-8", "replace") + data
    if rng.random() < 0.05:
        sent = _scrambled(rng, sent)
    end = rng.choice((*["read"] * 12, "shut", "leave", "reset"))
    if end != "read" and rng.random() < 0.7:
        sent = sent[: rng.randrange(len(sent) + 1)]
    return Attempt(sent, end)


def send(url: str, tried: Attempt) -> int | str:
    """Send it. Returns the status of the answer; or `none` when there was none, `lost` when nothing happened for too long."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=PATIENCE_S) as connection:
        received = b""
        try:
            connection.sendall(tried.data)
            if tried.end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if tried.end in ("leave", "reset"):
                return "left"
            if tried.end == "shut":
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            if not received:
                return "lost"
        except OSError:
            pass
    return status_of(received, tried)


def status_of(received: bytes, tried: Attempt) -> int | str:
    """The status of an answer after interim ones; `none` when a client that closed its side got none, `silent` when another one did."""
    while received.startswith(b"HTTP/1.1 1"):
        received = received.partition(b"\r\n\r\n")[2]
    line = received.split(b"\r\n", 1)[0].split()
    if len(line) > 1 and line[1].isdigit():
        return int(line[1])
    return "silent" if tried.end == "read" else "none"


def _picture(rng: random.Random) -> bytes:
    return mutant(rng) if rng.random() < 0.8 else rng.choice(originals())


def _body(rng: random.Random) -> tuple[bytes, str]:
    kind = rng.randrange(10)
    if kind < 4:
        return _picture(rng), rng.choice(_TYPES[:2])
    if kind < 6:
        return _form(rng)
    if kind < 9:
        text = json.dumps(_json(rng)).encode()
        return (text if rng.random() < 0.8 else _scrambled(rng, text)), "application/json"
    return _picture(rng), rng.choice(_TYPES)


def _form(rng: random.Random) -> tuple[bytes, str]:
    boundary = rng.choice(("b", "b" * 70, "b" * 300, "-", ""))
    parts = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 40))):
        name = rng.choice(("image", "image", "image", *_NAMES))
        file = rng.choice(('; filename="a.png"', "", '; filename="', "; filename*=UTF-8''%ff", '; filename="../../x\x00"'))
        content = _picture(rng) if name == "image" else str(rng.choice(_VALUES)).encode("utf-8", "replace")
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n")
    whole = b"".join(parts) + rng.choice((f"--{boundary}--\r\n", f"--{boundary}", "", "\r\n" * 100)).encode()
    said = rng.choice((f"multipart/form-data; boundary={boundary}", "multipart/form-data", 'multipart/form-data; boundary="b"'))
    return (whole if rng.random() < 0.8 else _scrambled(rng, whole)), said


def _json(rng: random.Random) -> Any:
    picture: Any = {"base64": base64.b64encode(_picture(rng)).decode()}
    values: dict[str, Any] = {rng.choice(_NAMES): _value(rng) for _ in range(rng.randrange(4))}
    kind = rng.randrange(8)
    if kind < 3:
        return values | {"image": picture}
    if kind == 3:
        return values | {"images": [picture] * rng.choice((0, 1, 2, 40))}
    if kind == 4:
        return {"inputs": picture["base64"], "parameters": values}
    if kind == 5:
        shape = rng.choice(([1], [1, 1], [-1], [10**30], "1", None, [1.5], [True]))
        return {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": shape, "data": [picture["base64"]]}], "parameters": values}
    if kind == 6:
        return {"image": {"type": rng.choice(("base64", "url", 1)), "value": picture["base64"]}} | values
    return _value(rng)


def _value(rng: random.Random) -> Any:
    nested: Any = []
    for _ in range(rng.choice((1, 3, 900))):
        nested = [nested]
    return rng.choice(
        (
            *_VALUES,
            None,
            True,
            0,
            -1,
            1.5,
            10**30,
            1e308,
            [],
            {},
            [None],
            [[]],
            {"base64": 1},
            {"base64": "!"},
            {"url": "file:///x"},
            nested,
        )
    )


def _query(rng: random.Random) -> str:
    pairs = [f"{quote(rng.choice(_NAMES))}={quote(str(rng.choice(_VALUES)))}" for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 30)))]
    return "?" + "&".join(pairs) if pairs else rng.choice(("", "", "", "?", "?&&&", "?%", "?=%ff%fe"))


def _framed(rng: random.Random, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    kind = rng.randrange(20)
    if kind < 14:
        return body, [("content-length", str(len(body)))]
    if kind < 16:
        step = rng.randrange(1, 3000)
        chunks = [body[i : i + step] for i in range(0, min(len(body), 100_000), step)]
        return b"".join(f"{len(each):x}\r\n".encode() + each + b"\r\n" for each in chunks) + b"0\r\n\r\n", [
            ("transfer-encoding", "chunked")
        ]
    if kind == 16:
        return body, [("transfer-encoding", "chunked")]
    if kind == 17:
        return body, [("content-length", str(len(body) // 2))]
    said = rng.choice((str(len(body) + 50), "-1", "x", str(10**18), "1, 2", str(30_000_000)))
    return body, [("content-length", said)]


def _header(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(
        (
            "accept",
            "accept-encoding",
            "content-encoding",
            "x-request-id",
            "authorization",
            "expect",
            "range",
            "traceparent",
            "x" * 3000,
            "te",
        )
    )
    values = (
        "*/*;q=x",
        "gzip;q=0, *;q=0",
        "gzip",
        "100-continue",
        "image/png",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        "ü",
        "a" * 9000,
        "",
        "bytes=0-",
    )
    return name, rng.choice(values)


def _scrambled(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 5, 30))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)
