"""A JSON body -> pictures and parameters: `{"image": {"base64": "..."}, "threshold": 0.5}`, or a list `images` for a batch.

Where pictures by URL are allowed, `{"url": "https://..."}` stands in the place of `{"base64": "..."}`.
"""

import json
from dataclasses import dataclass
from typing import Any

from proscale_service.errors import InvalidParameter, MalformedRequest
from proscale_service.routes.base64_text import from_base64
from proscale_service.routes.multipart import check_count


@dataclass(frozen=True)
class PictureUrl:
    """Where a picture is to be had."""

    url: str


def read_json(body: bytes, max_pictures: int, *, urls: bool = False) -> tuple[list[bytes | PictureUrl], dict[str, Any]]:
    """Pictures and parameters of a body. Null and empty strings count as left out, as empty fields of a form do.

    Args:
        max_pictures: with 1 the picture is called `image`, with more `images`, a list.
        urls: whether `{"url": "https://..."}` is allowed as a picture.

    Raises:
        MalformedRequest: no JSON, no object, broken pictures or too many.
        InvalidParameter: `image` where `images` is taken, or the other way round.
    """
    if not body:
        return [], {}
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise MalformedRequest("the JSON body is nested too deeply") from error
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}{_cut(error)}") from error
    if not isinstance(values, dict):
        raise MalformedRequest(f"the JSON body must be an object, not {type(values).__name__}")
    values = {name: value for name, value in values.items() if value is not None and value != ""}
    one = max_pictures == 1
    name, other = ("image", "images") if one else ("images", "image")
    if other in values:
        raise InvalidParameter(
            f"`{other}` does not belong here: /segment takes one picture `image`, /segment/batch takes a list "
            f"`images`; this path takes {_form(one)}"
        )
    given = values.pop(name, None)
    if given is None:
        for misnamed, value in values.items():
            if _looks_like_pictures(value):
                raise InvalidParameter(f"unknown name {misnamed[:80]!r} of a picture; this path takes {_form(one)}")
        return [], values
    if not one and not isinstance(given, list):
        raise MalformedRequest(f"images: must be a list, even of one picture: {_form(one)}")
    pictures = [given] if one else given
    check_count(len(pictures), max_pictures)
    return [_picture(picture, one, urls) for picture in pictures], values


def _picture(picture: Any, one: bool, urls: bool) -> bytes | PictureUrl:
    kind, value = next(iter(picture.items())) if isinstance(picture, dict) and len(picture) == 1 else ("", None)
    if kind == "base64" and isinstance(value, str):
        return from_base64(value)
    if kind == "url" and isinstance(value, str):
        if urls:
            return PictureUrl(value)
        raise MalformedRequest('pictures by URL are turned off here; send {"base64": "..."}')
    several = "; several pictures go to /segment/batch" if one and isinstance(picture, list) else ""
    or_url = ' or {"url": "https://..."}' if urls else ""
    raise MalformedRequest(f'a picture in JSON must be {{"base64": "..."}}{or_url} and nothing else{several}')


def _form(one: bool) -> str:
    return '"image": {"base64": "..."}' if one else '"images": [{"base64": "..."}, ...]'


def _looks_like_pictures(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and bool({"base64", "url"} & first.keys())


def _cut(error: Exception) -> str:
    ends_early = isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or not error.doc[error.pos :].strip()
    )
    return "; it ends too early, as if it was cut off" if ends_early else ""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
