"""An answer in other formats than JSON: one file as it is, several as a ZIP archive."""

import io
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from proscale.formats.files import FORMATS, AnswerFile, FormatOptions
from proscale.formats.geojson import PIXELS, GeoJSONOptions
from proscale.overlay import OPACITY
from proscale.results import Segmentation
from proscale_service.errors import AnswerTooLarge, InvalidParameter
from proscale_service.requests import PictureParameters


def format_options(parameters: PictureParameters, request_id: str) -> FormatOptions:
    """The options that the formats leave open.

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
            raise InvalidParameter("affine: must be a transform that can be undone; a * e - b * d is 0 or no number")
    return FormatOptions(
        polygons=GeoJSONOptions(simplify=parameters.simplify or 0.0, affine=affine),
        opacity=OPACITY if parameters.opacity is None else parameters.opacity,
        outlines=parameters.outlines,
        names=parameters.names,
        image_id=request_id,
        seed=request_id,
    )


def write_files(
    results: Sequence[Segmentation],
    formats: Sequence[str],
    options: FormatOptions,
    json: bytes,
    picture: Callable[[], NDArray[np.uint8]],
    max_bytes: int,
) -> tuple[bytes, str, str]:
    """The answer's bytes, their media type, and a file name.

    Args:
        json: the JSON answer; part of every archive, since it alone tells model, cost and timings.
        picture: decodes the picture again, (H, W, 3) uint8 RGB and oriented; called once when a format needs it.
        max_bytes: of all files together.

    Raises:
        InvalidParameter: a format cannot hold a task's segments.
        AnswerTooLarge: more bytes.
    """
    named = [FORMATS[name] for name in formats if name != "json"]
    image = picture() if any(each.needs_picture for each in named) else None
    files: list[AnswerFile] = []
    for each in named:
        for segmentation in results:
            try:
                files += each.write(segmentation, image, options)
            except ValueError as error:
                raise InvalidParameter(f"format: {error}") from error
            if (size := sum(len(file.data) for file in files)) > max_bytes:
                raise AnswerTooLarge(
                    f"the answer has more than {size} bytes, and {max_bytes} are sent here; ask for overlay_webp instead of overlay_png, "
                    "for fewer formats in one request, or for json"
                )
    if len(files) == 1 and "json" not in formats:
        (only,) = files
        return only.data, only.media_type, only.name
    return _zip([AnswerFile("answer.json", "application/json", json), *files]), "application/zip", "segments.zip"


def _zip(files: Sequence[AnswerFile]) -> bytes:
    stored = io.BytesIO()
    names: set[str] = set()
    with zipfile.ZipFile(stored, "w") as archive:
        for file in files:
            # Two formats may share a name: the PNG of ids of coco_panoptic and of ids_png.
            stem, dot, suffix = file.name.rpartition(".")
            name = next(n for n in (file.name, *(f"{stem}-{i}{dot}{suffix}" for i in range(2, len(files) + 2))) if n not in names)
            names.add(name)
            packed = zipfile.ZIP_STORED if file.media_type.startswith("image/") else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), file.data, packed, 1)
    return stored.getvalue()
