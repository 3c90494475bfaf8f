"""A segmentation painted over its picture, for people to look at."""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from proscale.results import Segment, Segmentation
from proscale.rle import decode, decode_id_map, overlap

GOLDEN_RATIO = 0.618034
OPACITY, OUTLINE_OPACITY = 0.45, 0.7
WHITE = np.array([255, 255, 255])
PIXELS_AT_ONCE = 1 << 17
"""Painted together: as many as stay in the cache."""
LABELLED_SHARE = 0.01
"""Segments smaller than this share of the picture get no text: it would hide them."""
LABELLED_PIXELS = 1_000_000
"""Where a text goes is decided by about so many of a segment's pixels at most."""


def segment_colours(segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """One colour per segment, (N, 3) uint8 RGB: stuff by category, so that it looks alike everywhere; things all different."""
    colours = []
    for segment in segments:
        step = segment.id if segment.isthing else segment.category_id * 7
        saturation, value = (0.85, 1.0) if segment.isthing else (0.45, 0.75)
        colours.append(colorsys.hsv_to_rgb(step * GOLDEN_RATIO % 1, saturation, value))
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def category_colours(count: int) -> NDArray[np.uint8]:
    """One colour for each of the category ids 0..count - 1, (count, 3) uint8 RGB; the same id always has the same colour."""
    colours = [colorsys.hsv_to_rgb(category * 7 * GOLDEN_RATIO % 1, 0.55, 0.55 + 0.4 * (category * 5 % 3) / 2) for category in range(count)]
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def draw_overlay(
    image: NDArray[np.uint8],
    segmentation: Segmentation,
    labels: bool = True,
    *,
    opacity: float = OPACITY,
    outlines: bool = True,
    scores: bool = True,
) -> NDArray[np.uint8]:
    """Paint masks half transparent, outlines solid, and names on the larger segments.

    Args:
        image: (H, W, 3) uint8 RGB, the oriented picture of the segmentation's size.
        labels: write names.
        scores: and scores behind them.
        opacity: of the colours, 0..1.
        outlines: draw the masks' outlines.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: picture and segmentation differ in size.
    """
    if image.shape[:2] != segmentation.size:
        raise ValueError(f"the picture has {image.shape[:2]} pixels, the segmentation {segmentation.size}")
    canvas = image.copy()
    colours = segment_colours(segmentation.segments)
    apart = not overlap([segment.segmentation for segment in segmentation.segments])
    (_paint_at_once if apart else _paint_one_by_one)(canvas, segmentation.segments, colours, opacity, outlines)
    painted = Image.fromarray(canvas)
    if labels:
        _write_labels(painted, segmentation, scores)
    return np.asarray(painted)


def _paint_one_by_one(
    canvas: NDArray[np.uint8], segments: Sequence[Segment], colours: NDArray[np.uint8], opacity: float, outlines: bool
) -> None:
    """Mix masks into a picture, one after the other, then their outlines, in place; masks may overlap."""
    size = (canvas.shape[0], canvas.shape[1])
    outlined = np.zeros(size, dtype=bool)
    for segment, colour in zip(segments, colours, strict=True):
        box = _with_neighbours(segment.bbox, size)
        left, top, width, height = box
        part = np.s_[top : top + height, left : left + width]
        mask = decode(segment.segmentation, box)
        _tint(canvas[part], mask, colour, opacity)
        if outlines:
            outlined[part] |= _outline(mask)
    _tint_few(canvas, outlined, WHITE, OUTLINE_OPACITY)


def _paint_at_once(
    canvas: NDArray[np.uint8], segments: Sequence[Segment], colours: NDArray[np.uint8], opacity: float, outlines: bool
) -> None:
    """`_paint_one_by_one` for masks that share no pixel: every pixel is read once, rows without a segment never."""
    count, size = len(segments), (canvas.shape[0], canvas.shape[1])
    kind = np.uint16 if count < 1 << 16 else np.uint32
    numbers = decode_id_map([segment.segmentation for segment in segments], range(1, count + 1), size, kind)
    # What becomes of every level of a channel under every segment, and under its outline.
    inside = np.stack([np.tile(np.arange(256), (3, 1)).T.astype(np.uint8), *(_mixed(colour, opacity) for colour in colours)])
    outside = _mixed(WHITE, OUTLINE_OPACITY)[inside, np.arange(3)]
    tables = np.concatenate([inside, outside]).transpose(2, 0, 1).reshape(3, -1)
    for top in range(0, size[0], rows := max(1, PIXELS_AT_ONCE // max(1, size[1]))):
        block = slice(top, top + rows)
        if not numbers[block].any():
            continue
        places = numbers[block].astype(np.int32) * 256
        if outlines:
            places += _edges(numbers, top, rows) * np.int32((count + 1) * 256)
        for channel, table in enumerate(tables):
            canvas[block, :, channel] = table.take(places + canvas[block, :, channel])


def _edges(numbers: NDArray[np.unsignedinteger[Any]], top: int, rows: int) -> NDArray[np.bool_]:
    """`_outline` of all segments of a map, for some of its rows: pixels of a segment beside one that is not of it."""
    here = numbers[top : top + rows]
    edges = np.zeros(here.shape, bool)
    across = here[:, 1:] != here[:, :-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    first = max(0, top - 1)
    around = numbers[first : top + rows + 1]
    down = around[1:] != around[:-1]
    above = top - first  # rows in front of the first
    edges[1 - above :] |= down[: len(here) - 1 + above]
    below = down[above:]
    edges[: len(below)] |= below
    edges &= here > 0
    return edges


def _with_neighbours(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box (x, y, width, height) and one pixel around it, as far as the picture of (height, width) goes."""
    left, top = max(0, box[0] - 1), max(0, box[1] - 1)
    right, bottom = min(size[1], box[0] + box[2] + 1), min(size[0], box[1] + box[3] + 1)
    return left, top, right - left, bottom - top


def _mixed(colour: NDArray[Any], opacity: float) -> NDArray[np.uint8]:
    """What becomes of every level of every channel under a colour, (256, 3)."""
    levels = np.arange(256)[:, None]
    mixed: NDArray[np.uint8] = (levels + (colour - levels) * opacity).round().astype(np.uint8)
    return mixed


def _tint_few(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: NDArray[Any], opacity: float) -> None:
    """`_tint` for a mask with few pixels in a large picture: only these are read."""
    picture[mask] = _mixed(colour, opacity)[picture[mask], np.arange(3)]


def _tint(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: NDArray[Any], opacity: float) -> None:
    """Mix a colour into the masked pixels, in place."""
    mixed = _mixed(colour, opacity)
    for channel in range(3):
        view = picture[..., channel]
        np.copyto(view, mixed[:, channel].take(view), where=mask)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with a neighbour (left, right, above, below) outside of it; what is beyond the array does not count."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline


def _write_labels(painted: Image.Image, segmentation: Segmentation, scores: bool) -> None:
    draw = ImageDraw.Draw(painted)
    height, width = segmentation.size
    font = ImageFont.load_default(size=max(10, min(height, width) // 40))
    for segment in segmentation.segments:
        if segment.area < LABELLED_SHARE * height * width:
            continue
        left, top, *_ = segment.bbox
        mask = decode(segment.segmentation, segment.bbox)
        # Of a large mask, every so many rows and columns; of one that is thinner than that, all.
        step = math.isqrt(mask.size // LABELLED_PIXELS) or 1
        step = step if mask[::step, ::step].any() else 1
        rows, columns = (step * each for each in np.nonzero(mask[::step, ::step]))
        # The pixel of the mask nearest to its centre: inside, also for masks with a hole in the middle.
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        position = (float(left + columns[nearest]), float(top + rows[nearest]))
        text = f"{segment.label} {segment.score:.2f}" if scores else segment.label
        draw.text(position, text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
