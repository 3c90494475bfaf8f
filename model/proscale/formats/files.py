"""Every format by its name: what an answer's files are called, what they hold, and whether they need the picture."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.config import TASKS, Task
from proscale.formats import coco, geojson
from proscale.formats.label_maps import category_map, id_map
from proscale.formats.mask_png import mask_png
from proscale.formats.png import LEVEL, png
from proscale.formats.table import write_table
from proscale.overlay import OPACITY, category_colours, draw_overlay
from proscale.results import Segmentation

Picture = NDArray[np.uint8]


DISJOINT: tuple[Task, ...] = ("panoptic", "semantic")
"""Tasks whose segments share no pixel, so that a map of pixels holds them."""
EXACT = geojson.GeoJSONOptions()
WEBP_SIDE = 16383
"""Pixels that a side of a WebP has at most, by its own header."""


@dataclass(frozen=True)
class FormatOptions:
    """What the formats leave open."""

    polygons: geojson.GeoJSONOptions = EXACT
    opacity: float = OPACITY
    """Of the colours in an overlay, 0..1."""
    outlines: bool = True
    """Whether an overlay draws outlines."""
    names: bool = True
    """Whether an overlay writes labels and scores."""
    image_id: int | str = 1
    """What COCO files call the picture."""
    seed: str = ""
    """What GeoJSON ids are made from."""
    prefix: str = ""
    """What stands in front of every file's name."""


@dataclass(frozen=True)
class AnswerFile:
    """One file of an answer."""

    name: str
    """Relative path, with forward slashes."""
    media_type: str
    data: bytes


Write = Callable[[Segmentation, Picture | None, FormatOptions], list[AnswerFile]]


@dataclass(frozen=True)
class FileFormat:
    """One format."""

    media_type: str
    """Of its only or first file."""
    needs_picture: bool
    write: Write
    """(segments, (H, W, 3) uint8 RGB or None, options) -> files. Raises ValueError when the format cannot hold the segments."""
    tasks: tuple[Task, ...] = TASKS
    """What it can hold."""


def _named(segmentation: Segmentation, options: FormatOptions, rest: str) -> str:
    return f"{options.prefix}{segmentation.task}{rest}"


def _json(name: str, value: Any) -> AnswerFile:
    return AnswerFile(name, "application/json", geojson.dumps(value))


def _image(name: str, picture: Image.Image, kind: str, **options: Any) -> AnswerFile:
    stored = io.BytesIO()
    picture.save(stored, kind, **options)
    return AnswerFile(name, f"image/{kind.lower()}", stored.getvalue())


def _png(name: str, picture: Image.Image) -> AnswerFile:
    return _image(name, picture, "PNG", compress_level=LEVEL)


def _rle_counts(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    entries = coco.results(segmentation, options.image_id)
    for entry, segment in zip(entries, segmentation.segments, strict=True):
        entry["segmentation"] = coco.uncompressed(segment.segmentation)
    return [_json(_named(segmentation, options, "-counts.json"), entries)]


def _coco_results(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    return [_json(_named(segmentation, options, "-results.json"), coco.results(segmentation, options.image_id))]


def _coco_panoptic(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    name = _named(segmentation, options, "-coco.png")
    pixels = AnswerFile(name, "image/png", png(coco.panoptic_map(segmentation)))
    annotation = coco.panoptic_annotation(segmentation, options.image_id, name)
    return [
        pixels,
        _json(_named(segmentation, options, "-coco.json"), {"annotations": [annotation], "categories": coco.categories([segmentation])}),
    ]


def _geojson(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    text = geojson.feature_collection_text(segmentation, options.polygons, options.seed)
    return [AnswerFile(_named(segmentation, options, ".geojson"), "application/geo+json", text)]


def _semantic_png(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    values, void = category_map(segmentation)
    image = Image.fromarray(values)
    if values.dtype == np.uint8:
        # A palette: programs read label ids, people see colours.
        palette = category_colours(256)
        palette[void] = 0
        image.putpalette(palette.tobytes())
    return [_png(_named(segmentation, options, "-labels.png"), image)]


def _semantic_colours(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    values, void = category_map(segmentation)
    palette = category_colours(void + 1)
    palette[void] = 0
    return [AnswerFile(_named(segmentation, options, "-colours.png"), "image/png", png(palette[values]))]


def _confidence(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    if segmentation.confidence is None:
        raise ValueError("confidence_png: the result has no map of confidence")
    return [AnswerFile(_named(segmentation, options, "-confidence.png"), "image/png", segmentation.confidence)]


def _ids_png(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    ids: NDArray[np.uint16] = id_map(segmentation).astype(np.uint16, copy=False)
    return [AnswerFile(_named(segmentation, options, "-ids.png"), "image/png", png(ids))]


def _ids_tiff(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    return [
        _image(_named(segmentation, options, "-ids.tif"), Image.fromarray(id_map(segmentation)), "TIFF", compression="tiff_adobe_deflate")
    ]


def _masks(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    names = (f"-masks/{segment.id:04d}-{_file_name(segment.label)}.png" for segment in segmentation.segments)
    return [
        AnswerFile(_named(segmentation, options, name), "image/png", mask_png(segment))
        for name, segment in zip(names, segmentation.segments, strict=True)
    ]


def _overlay(kind: str, **saving: Any) -> Write:
    def write(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
        if picture is None:
            raise ValueError("an overlay needs the picture")
        if kind == "WEBP" and max(segmentation.size) > WEBP_SIDE:
            height, width = segmentation.size
            raise ValueError(
                f"overlay_webp: a WebP has at most {WEBP_SIDE} pixels a side, this picture has {width}x{height}; ask for overlay_png"
            )
        drawn = draw_overlay(picture, segmentation, options.names, opacity=options.opacity, outlines=options.outlines)
        name = _named(segmentation, options, f"-overlay.{kind.lower()}")
        return [AnswerFile(name, "image/png", png(drawn)) if kind == "PNG" else _image(name, Image.fromarray(drawn), kind, **saving)]

    return write


def _table(segmentation: Segmentation, picture: Picture | None, options: FormatOptions) -> list[AnswerFile]:
    return [AnswerFile(_named(segmentation, options, ".csv"), "text/csv", write_table(segmentation, picture).encode())]


FORMATS: Mapping[str, FileFormat] = {
    "rle_counts": FileFormat("application/json", False, _rle_counts),
    "coco_results": FileFormat("application/json", False, _coco_results),
    "coco_panoptic": FileFormat("image/png", False, _coco_panoptic, DISJOINT),
    "geojson": FileFormat("application/geo+json", False, _geojson),
    "semantic_png": FileFormat("image/png", False, _semantic_png, DISJOINT),
    "semantic_colours": FileFormat("image/png", False, _semantic_colours, DISJOINT),
    "confidence_png": FileFormat("image/png", False, _confidence, ("semantic",)),
    "ids_png": FileFormat("image/png", False, _ids_png),
    "ids_tiff": FileFormat("image/tiff", False, _ids_tiff),
    "masks": FileFormat("image/png", False, _masks),
    "overlay_png": FileFormat("image/png", True, _overlay("PNG")),
    "overlay_webp": FileFormat("image/webp", True, _overlay("WEBP", quality=85, method=1)),
    "csv": FileFormat("text/csv", True, _table),
}
"""From a format's name to what writes it."""


def check_formats(formats: Sequence[str], tasks: Sequence[Task]) -> None:
    """Raise ValueError, with the remedy, for a format that cannot hold one of the tasks' results."""
    for name in formats:
        held = FORMATS[name].tasks if name in FORMATS else TASKS
        if wrong := [task for task in tasks if task not in held]:
            why = "; instances may overlap, and a map of pixels cannot hold them" if wrong == ["instance"] and held == DISJOINT else ""
            raise ValueError(f"{name} is for task={' or '.join(held)}, not for {', '.join(wrong)}{why}")


def _file_name(label: str) -> str:
    """A label as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", label)[:60] or "segment"
