"""What a request carries, whichever of the three ways it came: pictures as bytes, parameters as plain values.

- multipart/form-data: files called `image`, parameters as fields;
- image/* or application/octet-stream: the body is the picture, parameters stand in the query;
- application/json: `{"image": {"base64": "..."}, ...parameters}`.

Parameters may stand in the query in all three; one that has two values is an error rather than a guess.
"""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from proscale_service.errors import ClientGone, InvalidParameter, MalformedRequest, UnsupportedMedia
from proscale_service.schemas import LIST_PARAMETERS

MAX_FIELDS = 1000
KINDS = 'multipart/form-data with a file part `image`, an image/* body, or application/json with {"image": {"base64": ...}}'

InPool = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Input:
    """What was sent."""

    pictures: list[bytes]
    """Encoded pictures; empty when the body has none."""
    values: dict[str, Any]
    """Parameters by name: strings, lists of strings for those that take several, or what JSON held."""


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory: the body is bounded, and a temporary file would need a writable disk."""

    spool_max_size = 1 << 62


async def read_input(request: Request, in_pool: InPool, max_pictures: int = 1) -> Input:
    """Read and take apart a request's body and query.

    Args:
        in_pool: runs a function on another thread; JSON of megabytes is parsed there.
        max_pictures: more is an error. With 1 the picture is called `image` in JSON, with more `images`, a list.

    Raises:
        MalformedRequest: the body is not what its content type says, or holds too many pictures.
        UnsupportedMedia: none of the three ways.
        InvalidParameter: given twice.
        ServiceError: whatever limits.BodyLimit raises while the body comes in.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("compressed request bodies are not taken; send the picture as it is")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            pictures, values = await _read_multipart(request, max_pictures)
        elif kind == "application/json" or (kind.endswith("+json") and not kind.startswith("image/")):
            pictures, values = await in_pool(_read_json, await request.body(), max_pictures)
        elif kind.startswith("image/") or kind in ("application/octet-stream", ""):
            body = await request.body()
            pictures, values = ([body] if body else []), {}
        elif request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            pictures, values = [], {}
        else:
            raise UnsupportedMedia(f"content type {kind!r} is not taken; send {KINDS}")
    except ClientDisconnect as error:
        raise ClientGone("the client closed the connection while sending") from error
    query = _collect(request.query_params.multi_items())
    if twice := sorted(name for name in values.keys() & query.keys() if values[name] != query[name]):
        raise InvalidParameter(f"{', '.join(twice)}: one value in the query and another in the body")
    return Input(pictures, values | query)


def require_picture(given: Input) -> bytes:
    """The one picture.

    Raises:
        MalformedRequest: there is none.
    """
    if not given.pictures:
        raise MalformedRequest(f"the request has no picture; send {KINDS}")
    return given.pictures[0]


async def _read_multipart(request: Request, max_pictures: int) -> tuple[list[bytes], dict[str, Any]]:
    # One more than allowed, so that two pictures are told apart from a form that is odd in some other way.
    parser = _InMemoryParser(request.headers, request.stream(), max_files=max_pictures + 1, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the multipart body cannot be read: {error.message}") from error
    except (UnicodeError, ValueError, KeyError) as error:
        raise MalformedRequest("the multipart body cannot be read") from error
    pictures, fields = [], []
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                if name == "image":
                    raise MalformedRequest("the part `image` is a text field; send it as a file, with a file name")
                # Forms in browsers send every field, also those that nobody filled in.
                if value:
                    fields.append((name, value))
            elif name == "image":
                pictures.append(await value.read())
            else:
                raise InvalidParameter(f"unknown file part {name[:80]!r}; the picture's part is called 'image'")
    finally:
        await form.close()
    _check_count(len(pictures), max_pictures)
    return pictures, _collect(fields)


def _read_json(body: bytes, max_pictures: int) -> tuple[list[bytes], dict[str, Any]]:
    if not body:
        return [], {}
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MalformedRequest(f"the JSON body must be an object, not {type(values).__name__}")
    name = "image" if max_pictures == 1 else "images"
    given = values.pop(name, None)
    if given is None:
        return [], values
    pictures = [given] if max_pictures == 1 else given
    if not isinstance(pictures, list):
        raise MalformedRequest('images: must be a list of {"base64": "..."}')
    _check_count(len(pictures), max_pictures)
    return [_from_base64(picture) for picture in pictures], values


def _from_base64(picture: Any) -> bytes:
    if not isinstance(picture, dict) or picture.keys() != {"base64"} or not isinstance(picture["base64"], str):
        raise MalformedRequest('a picture in JSON must be {"base64": "..."} and nothing else')
    text = picture["base64"]
    if text.startswith("data:"):  # a data URL, as browsers make them
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"the picture's base64 cannot be read: {error}") from error


def _collect(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Names and values -> one entry per name, a list for those that take several.

    Raises:
        InvalidParameter: a single-valued parameter came twice.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in LIST_PARAMETERS:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise InvalidParameter(f"{name[:80]}: given more than once")
        else:
            values[name] = value
    return values


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise MalformedRequest(
            "more than one picture; send one per request, or use /segment/batch"
            if most == 1
            else f"more than {most} pictures in one request"
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
