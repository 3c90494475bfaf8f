"""Base64 as clients write it: both alphabets of RFC 4648, with or without padding, white space, or a data URL around it."""

import base64
import binascii
import re
from urllib.parse import unquote

from proscale_service.errors import MalformedRequest

# data:image/png;charset=x;base64,
_DATA_URL = re.compile(r"data:([^,]*),", re.IGNORECASE)
_TO_STANDARD = str.maketrans("-_", "+/", " \t\r\n\f\v")
_STANDARD = re.compile(r"[A-Za-z0-9+/]*")


def from_base64(text: str) -> bytes:
    """Decode base64 or base64url.

    Raises:
        MalformedRequest: it is neither, or empty; the text says where.
    """
    text = text.strip()
    if found := _DATA_URL.match(text):
        if not found[1].lower().replace(" ", "").endswith(";base64"):
            raise MalformedRequest("the picture's data URL is not base64: it must begin with data:, a media type and ;base64,")
        text = text[found.end() :]
        text = unquote(text) if "%" in text else text
    text = text.translate(_TO_STANDARD)
    digits = text.rstrip("=")
    if not digits:
        raise MalformedRequest("the picture is empty (0 bytes of base64)")
    matched = _STANDARD.match(digits)
    end = matched.end() if matched else 0
    if end < len(digits):
        raise MalformedRequest(f"the picture's base64 cannot be read: character {digits[end]!r} at position {end} does not belong there")
    missing = -len(digits) % 4
    if missing == 3:
        raise MalformedRequest("the picture's base64 is cut off: its last group has one character, which is not enough for a byte")
    # Padding says nothing that the length does not; where it stands, it must be right.
    if len(text) - len(digits) not in (0, missing):
        raise MalformedRequest(f"the picture's base64 cannot be read: it ends with {len(text) - len(digits)} '=' instead of {missing}")
    try:
        return base64.b64decode(digits + "=" * missing)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"the picture's base64 cannot be read: {error}") from error
