"""A segmentation painted over its picture, for people to look at."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from proscale.results import Segment, Segmentation
from proscale.rle import decode

GOLDEN_RATIO = 0.618034
OPACITY, OUTLINE_OPACITY = 0.45, 0.7
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
    outlined = np.zeros(segmentation.size, dtype=bool)
    for segment, colour in zip(segmentation.segments, colours, strict=True):
        box = _with_neighbours(segment.bbox, segmentation.size)
        left, top, width, height = box
        part = np.s_[top : top + height, left : left + width]
        mask = decode(segment.segmentation, box)
        _tint(canvas[part], mask, colour, opacity)
        if outlines:
            outlined[part] |= _outline(mask)
    _tint_few(canvas, outlined, np.array([255, 255, 255]), OUTLINE_OPACITY)
    painted = Image.fromarray(canvas)
    if labels:
        _write_labels(painted, segmentation, scores)
    return np.asarray(painted)


def _with_neighbours(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box (x, y, width, height) and one pixel around it, as far as the picture of (height, width) goes."""
    left, top = max(0, box[0] - 1), max(0, box[1] - 1)
    right, bottom = min(size[1], box[0] + box[2] + 1), min(size[0], box[1] + box[3] + 1)
    return left, top, right - left, bottom - top


def _tint_few(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: NDArray[Any], opacity: float) -> None:
    """`_tint` for a mask with few pixels in a large picture: only these are read."""
    levels = np.arange(256)[:, None]
    mixed = (levels + (colour - levels) * opacity).round().astype(np.uint8)
    picture[mask] = mixed[picture[mask], np.arange(3)]


def _tint(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: NDArray[Any], opacity: float) -> None:
    """Mix a colour into the masked pixels, in place."""
    levels = np.arange(256)[:, None]
    mixed = (levels + (colour - levels) * opacity).round().astype(np.uint8)
    for channel in range(3):
        view = picture[..., channel]
        np.copyto(view, mixed[view, channel], where=mask)


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
        step = max(1, mask.size // LABELLED_PIXELS)
        rows, columns = np.divmod(np.flatnonzero(mask)[::step], mask.shape[1])
        # The pixel of the mask nearest to its centre: inside, also for masks with a hole in the middle.
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        position = (float(left + columns[nearest]), float(top + rows[nearest]))
        text = f"{segment.label} {segment.score:.2f}" if scores else segment.label
        draw.text(position, text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
