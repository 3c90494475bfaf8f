"""An answer in other formats than JSON: one file as it is, several as a ZIP archive or as multipart/mixed."""

import io
import math
import uuid
import zipfile
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.formats import files
from proscale.formats.files import FORMATS, AnswerFile, FormatOptions
from proscale.formats.geojson import PIXELS, GeoJSONOptions
from proscale.overlay import OPACITY
from proscale.results import Segmentation
from proscale_service.errors import AnswerTooLarge, InvalidParameter
from proscale_service.requests import PictureParameters

Packing = Literal["zip", "multipart"]


def format_options(parameters: PictureParameters, request_id: str, prefix: str = "") -> FormatOptions:
    """The options that the formats leave open.

    Args:
        prefix: what stands in front of every file's name.

    Raises:
        InvalidParameter: `affine` is no transform.
    """
    affine = PIXELS
    if parameters.affine is not None:
        try:
            a, b, c, d, e, f = (float(part) for part in parameters.affine.split(","))
        except ValueError as error:
            raise InvalidParameter(f"affine: six numbers, comma separated, not {parameters.affine[:80]!r}") from error
        affine = (a, b, c, d, e, f)
        if not np.isfinite(affine).all() or a * e == b * d:
            raise InvalidParameter("affine: must be an invertible transform, but a * e - b * d is 0 or not a number")
    return FormatOptions(
        polygons=GeoJSONOptions(simplify=parameters.simplify or 0.0, affine=affine),
        opacity=OPACITY if parameters.opacity is None else parameters.opacity,
        outlines=parameters.outlines,
        names=parameters.names,
        image_id=request_id,
        seed=request_id,
        prefix=prefix,
    )


def make_files(
    results: Sequence[Segmentation],
    formats: Sequence[str],
    options: FormatOptions,
    picture: Callable[[], NDArray[np.uint8]],
    max_bytes: float = math.inf,
) -> list[AnswerFile]:
    """The files of every format but `json`.

    Args:
        picture: decodes the picture again, (H, W, 3) uint8 RGB and oriented; called once when a format needs it.
        max_bytes: of all files together.

    Raises:
        InvalidParameter: a format cannot hold a task's segments.
        AnswerTooLarge: more bytes.
    """
    named = [FORMATS[name] for name in formats if name != "json"]
    image = picture() if any(each.needs_picture for each in named) else None
    made: list[AnswerFile] = []
    for each in named:
        for segmentation in results:
            try:
                made += each.write(segmentation, image, options)
            except ValueError as error:
                raise InvalidParameter(f"format: {error}") from error
            if (size := sum(len(file.data) for file in made)) > max_bytes:
                raise AnswerTooLarge(
                    f"the answer has {size} bytes or more, over the limit of {max_bytes}; ask for overlay_webp instead of overlay_png, "
                    "for fewer formats in one request, or for json"
                )
    return made


def check_formats(formats: Sequence[str], tasks: Sequence[Task]) -> None:
    """Raise InvalidParameter, with the remedy, for a format that cannot hold one of the tasks' results; before anything is computed."""
    try:
        files.check_formats(formats, tasks)
    except ValueError as error:
        raise InvalidParameter(f"format: {error}") from error


def packed(made: Sequence[AnswerFile], formats: Sequence[str], json: bytes, packing: Packing) -> tuple[bytes, str, str]:
    """The answer's bytes, their media type, and a file name.

    Args:
        json: the JSON answer; part of everything that holds several files, since it alone tells model, cost and timings.
        packing: how several files become one answer; `multipart` packs a single file, too.
    """
    if len(made) == 1 and "json" not in formats and packing == "zip":
        (only,) = made
        return only.data, only.media_type, only.name
    parts = [AnswerFile("answer.json", "application/json", json), *made]
    if packing == "multipart":
        boundary = uuid.uuid4().hex
        return _multipart(parts, boundary), f"multipart/mixed; boundary={boundary}", "segments.multipart"
    return _zip(parts), "application/zip", "segments.zip"


def _zip(parts: Sequence[AnswerFile]) -> bytes:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for part in parts:
            method = zipfile.ZIP_STORED if part.media_type.startswith("image/") else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(part.name), part.data, method, 1)
    return stored.getvalue()


def _multipart(parts: Sequence[AnswerFile], boundary: str) -> bytes:
    """RFC 2046, 5.1, with binary parts, as HTTP has them."""
    lines: list[bytes] = []
    for part in parts:
        name = quote(part.name)
        head = (
            f"--{boundary}\r\nContent-Type: {part.media_type}\r\nContent-Length: {len(part.data)}\r\n"
            f"Content-Disposition: attachment; filename*=UTF-8''{name}\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        )
        lines += [head.encode("ascii"), part.data, b"\r\n"]
    return b"".join([*lines, f"--{boundary}--\r\n".encode("ascii")])
