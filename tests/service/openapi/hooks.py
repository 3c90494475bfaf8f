"""Hooks for schemathesis: a schema cannot say what a picture is, so that requests which should be accepted get a real one."""

import base64
import re

import schemathesis
from hypothesis import strategies as st
from schemathesis.transport.serialization import Binary

from proscale.errors import ParameterError
from proscale.tiles import TILING_PATTERN, parse_tiling

BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAYAQMAAAChnW13AAAABlBMVEXm4etaKIJOcI7GAAAAM0lEQVR42mNgwA/YPzAwMXBwMDAxCLAwMDEoMDEwMTAw4CMe/"
    "GNgYvjwh4GJ4ccP3OYCACh9BxAwATdkAAAAAElFTkSuQmCC"
)
PICTURE = st.just(Binary(base64.b64decode(BASE64)))

schemathesis.openapi.format("binary", PICTURE)
schemathesis.openapi.format("byte", st.just(BASE64))
for kind in ("image/*", "image/png", "image/jpeg", "image/webp", "image/tiff", "image/bmp", "image/gif", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, PICTURE.map(lambda picture: picture.data))


@schemathesis.hook
def filter_case(context: object, case: schemathesis.Case) -> bool:
    """Leave out what no schema can say: empty values count as left out, and a label is merged only if it exists, and into one other; an
    overlap is at most half of its window, and only some networks have `joint`."""
    parts = [case.body if isinstance(case.body, dict) else {}, case.query or {}]
    values = [value for part in parts for value in part.values()]
    if any("merge_labels" in part for part in parts):
        return False
    if any(isinstance(tile := part.get("tile"), str) and re.match(TILING_PATTERN, tile) and not _possible(tile) for part in parts):
        return False
    return not any(value == "" or (isinstance(value, list) and "" in value) for value in values if not isinstance(value, Binary))


def _possible(tile: str) -> bool:
    try:
        return parse_tiling(tile).kind != "joint"
    except ParameterError:
        return False
