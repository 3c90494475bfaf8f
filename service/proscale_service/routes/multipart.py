"""A multipart/form-data body (RFC 7578) -> pictures and text fields, all in memory.

python-multipart finds the parts. What a part is, is decided here, because its own form parser takes a part whose only file name is
`filename*=` for text, and does not notice a body that was cut off. Text before the first boundary is dropped here, because
python-multipart refuses it.
"""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from proscale_service.errors import InvalidParameter, MalformedRequest
from proscale_service.routes.base64_text import from_base64
from proscale_service.routes.content_types import is_bytes

if TYPE_CHECKING:  # where alone the name exists
    from python_multipart.multipart import MultipartCallbacks

PICTURE = "image"
MAX_FIELDS = 1000
MAX_FIELD_BYTES = 1 << 20

# ;name=value, ;name="value" with \" inside, or ;name*=charset'language'value
_OPTION = re.compile(r""";\s*([^\s=;"]+)\s*=\s*("(?:\\"|[^"])*"|[^;]*)""")
_PLAIN_ENCODINGS = {"", "7bit", "8bit", "binary"}


async def read_form(content_type: str, stream: AsyncIterator[bytes], max_pictures: int) -> tuple[list[bytes], list[tuple[str, str]]]:
    """Read a form.

    Args:
        content_type: the header, with the boundary.
        stream: the body's chunks.
        max_pictures: more is an error as soon as the next one begins.

    Returns:
        the contents of the parts `image` that are files, and names with values of all text fields that are not empty: browsers send
        every field of a form, also those that nobody filled in.

    Raises:
        MalformedRequest: the body is no such form, is cut off, or holds too many pictures.
        InvalidParameter: a file part that is not called `image`.
    """
    boundary = options_of(content_type).get("boundary")
    if not boundary:
        raise MalformedRequest(
            "the content type multipart/form-data names no boundary; leave the header to your HTTP library, which knows the boundary"
        )
    form = _Form(max_pictures)
    preamble = _Preamble(boundary.encode("latin-1", "replace"))
    empty = True
    try:
        parser = MultipartParser(boundary.encode("latin-1", "replace"), form.callbacks())
        async for chunk in stream:
            empty = empty and not chunk
            if parts := preamble.left_of(chunk):
                parser.write(parts)
    except FormParserError as error:
        raise MalformedRequest(f"the multipart body cannot be read: {error}") from error
    if not preamble.over and not empty:
        raise MalformedRequest(f"no line of the multipart body begins with the boundary that the content type names, {boundary[:80]!r}")
    if not form.ended and not empty:
        raise MalformedRequest(
            "the multipart body is cut off: it ends before its closing boundary; send it whole, with the right Content-Length"
        )
    return form.pictures, form.fields


class _Preamble:
    """Drops the text before the first boundary, which readers are to ignore (RFC 2046, 5.1.1)."""

    def __init__(self, boundary: bytes) -> None:
        self.over = False
        self._line = b"\r\n--" + boundary
        self._held = b"\r\n"  # the first line may be the boundary

    def left_of(self, chunk: bytes) -> bytes:
        """What of the next chunk belongs to the parts, with what was held back of the one before."""
        if self.over:
            return chunk
        held = self._held + chunk
        found = held.find(self._line)
        if found < 0:
            self._held = held[-len(self._line) :]
            return b""
        self.over = True
        self._held = b""
        return held[found + 2 :]


class _Form:
    """What has been read of a form. Its methods are called by the parser, in the order of the body."""

    def __init__(self, max_pictures: int) -> None:
        self.pictures: list[bytes] = []
        self.fields: list[tuple[str, str]] = []
        self.ended = False
        self._max_pictures = max_pictures
        self._files = 0
        self._part = _Part()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._part.header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._part.header_value.extend(data[start:end]),
            "on_header_end": lambda: self._part.end_header(),
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._part = _Part()

    def _headers_finished(self) -> None:
        part = self._part
        part.identify()
        if not part.is_file:
            if len(self.fields) >= MAX_FIELDS:
                raise MalformedRequest(f"the form has more than {MAX_FIELDS} fields")
        elif part.name != PICTURE:
            raise InvalidParameter(f"unknown file part {part.name[:80]!r}; the picture's part is called {PICTURE!r}")
        elif part.filename != "":
            self._count()

    def _count(self) -> None:
        self._files += 1
        check_count(self._files, self._max_pictures)

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if not part.is_file:
            if part.name == PICTURE:
                raise MalformedRequest(
                    f"the part `{PICTURE}` is a text field, because it has no file name and no content type of a picture; send it as "
                    "a file, with filename= in its Content-Disposition (curl: -F image=@picture.jpg)"
                )
            if part.size + end - start > MAX_FIELD_BYTES:
                raise MalformedRequest(
                    f"the field {part.name[:80]!r} has more than {MAX_FIELD_BYTES} bytes; a part without a file name is text, "
                    f"so send a picture as a file, in a part called {PICTURE!r}"
                )
        elif part.filename == "" and part.size == 0:  # not the file input that nobody chose a file for
            self._count()
        part.size += end - start
        part.chunks.append(data[start:end])

    def _end(self) -> None:
        part = self._part
        content = part.content()
        if not part.is_file:
            if content:
                self.fields.append((part.name, content.decode(errors="replace")))
        elif content or part.filename != "":
            self.pictures.append(content)
        # A file input that nobody chose a file for comes with an empty name and no bytes.

    def _finish(self) -> None:
        self.ended = True


class _Part:
    """The part that is being read."""

    def __init__(self) -> None:
        self.header_name, self.header_value = bytearray(), bytearray()
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.size = 0
        self.name = ""
        self.filename: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it has a file name, in whatever way that is written; or, called `image`, a content type that says it is a file."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return self.filename is not None or (self.name == PICTURE and kind != "" and is_bytes(kind))

    def end_header(self) -> None:
        self.headers[_text(self.header_name).lower()] = _text(self.header_value).strip()
        self.header_name.clear()
        self.header_value.clear()

    def identify(self) -> None:
        """Take name and file name from the headers."""
        options = options_of(self.headers.get("content-disposition", ""))
        if "name" not in options:
            raise MalformedRequest("a part of the multipart body has no name in its Content-Disposition")
        self.name, self.filename = options["name"], options.get("filename")
        if self._encoding() not in _PLAIN_ENCODINGS | {"base64"}:
            raise MalformedRequest(
                f"Content-Transfer-Encoding {self._encoding()[:40]!r} of part {self.name[:80]!r} is not supported; send binary"
            )

    def content(self) -> bytes:
        content = b"".join(self.chunks)
        return from_base64(content.decode("latin-1")) if self._encoding() == "base64" else content

    def _encoding(self) -> str:
        return self.headers.get("content-transfer-encoding", "").lower()


def options_of(header: str) -> dict[str, str]:
    """The options behind a header's value: `form-data; name="a"` -> {"name": "a"}; names in lower case.

    `name*=charset'language'value` (RFC 5987) and pieces `name*0=`, `name*1*=` (RFC 2231) count as `name`. A plain one wins.
    """
    plain: dict[str, str] = {}
    extended: dict[str, str] = {}
    for key, value in _OPTION.findall(header):
        name, star, _ = key.lower().partition("*")
        value = value[1:-1].replace('\\"', '"') if value.startswith('"') and len(value) > 1 else value.strip()
        if not star:
            plain.setdefault(name, value)
            continue
        if key.endswith("*") and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
            value = _unquote(value, charset)
        extended[name] = extended.get(name, "") + value
    return extended | plain


def check_count(count: int, most: int) -> None:
    """Raise MalformedRequest when there are more pictures than allowed."""
    if count > most:
        raise MalformedRequest(
            "more than one picture; send one per request, or use /segment/batch"
            if most == 1
            else f"more than {most} pictures in one request"
        )


def _unquote(value: str, charset: str) -> str:
    try:
        return unquote(value, charset or "utf-8", errors="replace")
    except LookupError:
        return value


def _text(data: bytearray) -> str:
    """Headers of parts are UTF-8 by RFC 7578; older clients write Latin-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
