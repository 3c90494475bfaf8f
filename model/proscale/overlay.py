"""A segmentation painted over its picture, for people to look at."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from proscale.results import Segment, Segmentation
from proscale.rle import decode

GOLDEN_RATIO = 0.618034
OPACITY = 0.45
LABELLED_SHARE = 0.01
"""Segments smaller than this share of the picture get no text: it would hide them."""


def segment_colours(segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """One colour per segment, (N, 3) uint8 RGB: stuff by category, so that it looks alike everywhere; things all different."""
    colours = []
    for segment in segments:
        step = segment.id if segment.isthing else segment.category_id * 7
        saturation, value = (0.85, 1.0) if segment.isthing else (0.45, 0.75)
        colours.append(colorsys.hsv_to_rgb(step * GOLDEN_RATIO % 1, saturation, value))
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def draw_overlay(image: NDArray[np.uint8], segmentation: Segmentation, labels: bool = True) -> NDArray[np.uint8]:
    """Paint masks half transparent, outlines solid, and names on the larger segments.

    Args:
        image: (H, W, 3) uint8 RGB, the oriented picture of the segmentation's size.
        labels: write names and scores.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: picture and segmentation differ in size.
    """
    if image.shape[:2] != segmentation.size:
        raise ValueError(f"the picture has {image.shape[:2]} pixels, the segmentation {segmentation.size}")
    canvas = image.astype(np.float32)
    colours = segment_colours(segmentation.segments)
    outlines = np.zeros(segmentation.size, dtype=bool)
    for segment, colour in zip(segmentation.segments, colours, strict=True):
        mask = decode(segment.segmentation)
        canvas[mask] += (colour - canvas[mask]) * OPACITY
        outlines |= _outline(mask)
    canvas[outlines] = canvas[outlines] * 0.3 + 255 * 0.7
    painted = Image.fromarray(canvas.round().astype(np.uint8))
    if labels:
        _write_labels(painted, segmentation)
    return np.asarray(painted)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with a neighbour (left, right, above, below) outside of it; the picture's border does not count."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline


def _write_labels(painted: Image.Image, segmentation: Segmentation) -> None:
    draw = ImageDraw.Draw(painted)
    height, width = segmentation.size
    font = ImageFont.load_default(size=max(10, min(height, width) // 40))
    for segment in segmentation.segments:
        if segment.area < LABELLED_SHARE * height * width:
            continue
        rows, columns = np.nonzero(decode(segment.segmentation))
        # The pixel of the mask nearest to its centre: inside, also for masks with a hole in the middle.
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        position = (float(columns[nearest]), float(rows[nearest]))
        text = f"{segment.label} {segment.score:.2f}"
        draw.text(position, text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
