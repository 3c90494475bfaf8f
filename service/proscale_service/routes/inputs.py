"""What a request carries, whichever of the three ways it came: pictures as bytes, parameters as plain values.

- multipart/form-data: files called `image`, parameters as fields (`multipart.py`);
- image/* or application/octet-stream: the body is the picture, parameters stand in the query;
- application/json: `{"image": {"base64": "..."}, ...parameters}` (`json_body.py`).

Parameters may stand in the query in all three; what the body says counts before the query. An empty value and JSON's null count as left
out, wherever they stand.
"""

import asyncio
import fnmatch
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from proscale_service.access.guard import check_right
from proscale_service.errors import ClientGone, InvalidParameter, MalformedRequest, ServiceError, UnsupportedMedia
from proscale_service.limits import claim_of, unless_client_leaves
from proscale_service.picture_urls.fetching import Fetcher
from proscale_service.requests import LIST_PARAMETERS
from proscale_service.routes.content_types import is_bytes
from proscale_service.routes.json_body import PictureUrl, read_json
from proscale_service.routes.multipart import read_form

KINDS = 'multipart/form-data with a file part `image`, an image/* body, or application/json with {"image": {"base64": ...}}'
KINDS_OF_MANY = 'multipart/form-data with file parts `image`, or application/json with {"images": [{"base64": ...}, ...]}'
InPool = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Input:
    """What was sent."""

    pictures: list[bytes | ServiceError]
    """Encoded pictures, and in a batch what was wrong with those that could not be fetched; empty when the body has none."""
    body: dict[str, Any]
    """Parameters of the body by name: strings, lists of strings for those that take several, or what JSON held."""
    query: dict[str, Any]
    """Parameters of the query; the body's count before them."""


async def read_input(
    request: Request,
    in_pool: InPool,
    max_pictures: int = 1,
    *,
    known: Collection[str] = (),
    ignored: Collection[str] = (),
    fetcher: Fetcher | None = None,
) -> Input:
    """Read and take apart a request's body and query.

    Args:
        in_pool: runs a function on another thread; JSON of megabytes is parsed there.
        max_pictures: more is an error. With 1 the picture is called `image` in JSON, with more `images`, a list.
        known: names of parameters, which are never ignored.
        ignored: names, or patterns such as `utm_*`, of query parameters that gateways add and that mean nothing here.
        fetcher: of pictures by URL; None: they are refused.

    Raises:
        MalformedRequest: the body is not what its content type says, or holds too many pictures.
        UnsupportedMedia: none of the three ways.
        InvalidParameter: given twice in the query, or twice in the form.
        UnfetchablePicture: the one picture could not be had from its URL.
        ServiceError: whatever limits.BodyLimit raises while the body comes in.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise UnsupportedMedia("compressed request bodies are not supported; send the picture without Content-Encoding")
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    pictures: Sequence[bytes | PictureUrl]
    try:
        if kind == "multipart/form-data":
            pictures, fields = await read_form(content_type, request.stream(), max_pictures)
            values = _collect(fields)
        elif kind == "application/json" or (kind.endswith("+json") and not kind.startswith("image/")):
            pictures, values = await in_pool(read_json, await request.body(), max_pictures, urls=fetcher is not None)
        elif is_bytes(kind):
            body = await request.body()
            pictures, values = ([body] if body else []), {}
        elif request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            pictures, values = [], {}
        else:
            raise UnsupportedMedia(_not_taken(kind, KINDS if max_pictures == 1 else KINDS_OF_MANY))
    except ClientDisconnect as error:
        raise ClientGone("the client closed the connection while sending") from error
    asked = [(name, value) for name, value in request.query_params.multi_items() if not _matches(name, known, ignored)]
    return Input(await _fetched(request, pictures, fetcher), values, _collect(asked))


def require_picture(given: Input) -> bytes:
    """The one picture.

    Raises:
        MalformedRequest: there is none.
        ServiceError: it could not be fetched.
    """
    require_any(given, KINDS)
    picture = given.pictures[0]
    if isinstance(picture, ServiceError):
        raise picture
    return picture


def require_any(given: Input, kinds: str = KINDS_OF_MANY) -> None:
    """Raise MalformedRequest when there is no picture. Args: kinds: what to send."""
    if not given.pictures:
        raise MalformedRequest(f"the request has no picture; send {kinds}")


async def _fetched(request: Request, pictures: Sequence[bytes | PictureUrl], fetcher: Fetcher | None) -> list[bytes | ServiceError]:
    async def fetched(picture: bytes | PictureUrl) -> bytes | ServiceError:
        if isinstance(picture, bytes):
            return picture
        assert fetcher is not None
        try:
            return await fetcher.fetch(picture.url, claim_of(request.scope))
        except ServiceError as error:
            return error

    if not any(isinstance(picture, PictureUrl) for picture in pictures):
        return [picture for picture in pictures if isinstance(picture, bytes)]
    check_right(request.scope, "url")
    return list(await unless_client_leaves(request.receive, _all(map(fetched, pictures))))


async def _all(work: Iterable[Coroutine[Any, Any, bytes | ServiceError]]) -> list[bytes | ServiceError]:
    return list(await asyncio.gather(*work))


def _not_taken(kind: str, kinds: str) -> str:
    # What curl -d and --data-binary say when nobody tells them better.
    hint = "; with curl --data-binary add -H 'content-type: image/jpeg'" if kind == "application/x-www-form-urlencoded" else ""
    return f"content type {kind!r} is not taken; send {kinds}{hint}"


def _matches(name: str, known: Collection[str], ignored: Collection[str]) -> bool:
    return name not in known and any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)


def _collect(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Names and values that are not empty -> one entry per name, a list for those that take several.

    Raises:
        InvalidParameter: a single-valued parameter came twice.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if value == "":
            continue
        if name in LIST_PARAMETERS:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise InvalidParameter(f"{name[:80]}: given more than once")
        else:
            values[name] = value
    return values
