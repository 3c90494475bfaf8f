"""What may be done to segments before they are written: all of it off by default, all of it reported in the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from proscale.config import Task
from proscale.formats.runs import ColumnRuns, Positions, column_runs, complement, components, intersection, to_rle
from proscale.results import RLE, Segment, Segmentation
from proscale.rle import measure, runs_of_ones


@dataclass(frozen=True)
class CleaningOptions:
    """What is asked for."""

    min_area: int = 0
    """Drop segments of fewer pixels."""
    fill_holes: int = 0
    """Fill holes of at most so many pixels; in panoptic and semantic results only where nothing else is."""
    largest_piece: bool = False
    """Keep of every thing its largest 4-connected piece."""
    deduplicate: float | None = None
    """Drop an instance whose mask has an IoU above this with one of higher score; labels do not matter."""
    merge_labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """New label -> labels that it stands for. Stuff of one label, and in semantic results everything of it, becomes one segment."""
    category_ids: Mapping[str, int] = field(default_factory=dict)
    """New label -> its category id, the same for every picture; without an entry, that of the first label found in the picture."""


@dataclass(frozen=True)
class Cleaned:
    """The segments that are left, and what was done."""

    segmentation: Segmentation
    dropped_small: int
    dropped_duplicates: int
    filled_pixels: int
    removed_pixels: int
    """Of pieces that were not the largest."""
    merged_segments: int
    """Segments under a new label."""


def clean(segmentation: Segmentation, options: CleaningOptions) -> Cleaned:
    """Clean a result: labels merged, duplicates dropped, pieces, holes, then areas. Ids stay; gaps in them are what was dropped.

    Raises:
        ValueError: an option out of its range.
    """
    if options.min_area < 0 or options.fill_holes < 0:
        raise ValueError("min_area and fill_holes: must be 0 or more pixels")
    if options.deduplicate is not None and not 0 < options.deduplicate <= 1:
        raise ValueError(f"deduplicate: must be an IoU above 0 and at most 1 (it is {options.deduplicate:g})")
    segments = list(segmentation.segments)
    olds = {old for new, olds in options.merge_labels.items() for old in olds if old != new}
    merged = sum(segment.label in olds for segment in segments)
    if options.merge_labels:
        segments = merge_labels(segments, options.merge_labels, options.category_ids, segmentation.task)
    unique = segments if options.deduplicate is None else without_duplicates(segments, options.deduplicate)
    duplicates = len(segments) - len(unique)
    removed = filled = 0
    if options.largest_piece:
        before = sum(segment.area for segment in unique)
        unique = [_largest_piece(segment) if segment.isthing else segment for segment in unique]
        removed = before - sum(segment.area for segment in unique)
    if options.fill_holes:
        before = sum(segment.area for segment in unique)
        unique = _filled(unique, options.fill_holes, overlapping=segmentation.task == "instance")
        filled = sum(segment.area for segment in unique) - before
    left = [segment for segment in unique if segment.area >= options.min_area]
    return Cleaned(replace(segmentation, segments=tuple(left)), len(unique) - len(left), duplicates, filled, removed, merged)


def without_duplicates(segments: Sequence[Segment], iou: float) -> list[Segment]:
    """Segments whose mask has at most this IoU with every kept one of higher score, in their former order."""
    runs = {segment.id: runs_of_ones(segment.segmentation) for segment in segments}
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda each: -each.score):
        if not any(_iou(segment, other, runs, iou) for other in kept):
            kept.append(segment)
    chosen = {segment.id for segment in kept}
    return [segment for segment in segments if segment.id in chosen]


def merge_labels(
    segments: Sequence[Segment], merged: Mapping[str, Sequence[str]], category_ids: Mapping[str, int], task: Task
) -> list[Segment]:
    """Segments under their new labels.

    Stuff of one new label is united; its score is the mean by area. Things stay apart, but not in semantic results, where a label has
    one segment. Instances are never united.

    Args:
        category_ids: of new labels; one that lacks here has that of the first label that it stands for and is there.
    """
    new_label = {old: new for new, olds in merged.items() for old in olds}
    category: dict[str, int] = {}
    for new, olds in merged.items():
        ids = [segment.category_id for old in olds for segment in segments if segment.label == old]
        if ids:
            category[new] = category_ids.get(new, ids[0])
    renamed = [
        replace(segment, label=new_label[segment.label], category_id=category[new_label[segment.label]])
        if segment.label in new_label
        else segment
        for segment in segments
    ]
    result: dict[object, Segment] = {}
    for segment in renamed:
        united = segment.label in merged and (task == "semantic" or (task == "panoptic" and not segment.isthing))
        key: object = segment.label if united else segment.id
        result[key] = _union(result[key], segment) if key in result else segment
    return list(result.values())


def _iou(a: Segment, b: Segment, runs: Mapping[int, tuple[Positions, Positions]], above: float) -> bool:
    ax, ay, aw, ah = a.bbox
    bx, by, bw, bh = b.bbox
    if ax >= bx + bw or bx >= ax + aw or ay >= by + bh or by >= ay + ah or min(a.area, b.area) <= above * max(a.area, b.area):
        return False
    shared = intersection(runs[a.id], runs[b.id])
    return shared > above * (a.area + b.area - shared)


def _union(a: Segment, b: Segment) -> Segment:
    area = max(1, a.area + b.area)
    joined = _with_mask(a, _cover([runs_of_ones(a.segmentation), runs_of_ones(b.segmentation)]))
    return replace(joined, score=(a.score * a.area + b.score * b.area) / area)


def _cover(masks: Sequence[tuple[Positions, Positions]]) -> tuple[Positions, Positions]:
    """Starts and ends of the pixels that any of the masks covers."""
    positions = np.concatenate([each for starts, ends in masks for each in (starts, ends)])
    steps = np.concatenate([np.full(len(each), sign) for starts, ends in masks for each, sign in ((starts, 1), (ends, -1))])
    order = np.lexsort((-steps, positions))
    depth = np.cumsum(steps[order])
    begins = (depth == 1) & (steps[order] == 1)
    return positions[order][begins], positions[order][depth == 0]


def _minus(mask: tuple[Positions, Positions], taken: tuple[Positions, Positions]) -> tuple[Positions, Positions]:
    """Starts and ends of the pixels of `mask` that `taken` does not cover."""
    positions = np.concatenate([*mask, *taken])
    inside = np.concatenate([np.full(len(mask[0]), 1), np.full(len(mask[1]), -1), np.zeros(2 * len(taken[0]), np.int64)])
    blocked = np.concatenate([np.zeros(2 * len(mask[0]), np.int64), np.full(len(taken[0]), 1), np.full(len(taken[1]), -1)])
    order = np.argsort(positions, kind="stable")
    places, free = positions[order], (np.cumsum(inside[order]) > 0) & (np.cumsum(blocked[order]) == 0)
    starts, ends = places[:-1][free[:-1]], places[1:][free[:-1]]
    filled = ends > starts
    return starts[filled], ends[filled]


def _with_mask(segment: Segment, mask: tuple[Positions, Positions]) -> Segment:
    height, width = segment.segmentation.size
    starts, ends = mask
    columns = ColumnRuns((height, width * height), np.zeros(len(starts), np.int64), starts, ends)
    return _with_rle(segment, to_rle(replace(columns, size=(height, width))))


def _with_rle(segment: Segment, rle: RLE) -> Segment:
    area, box = measure(rle)
    return replace(segment, segmentation=rle, area=area, bbox=box)


def _largest_piece(segment: Segment) -> Segment:
    runs = column_runs(segment.segmentation)
    pieces = components(runs)
    if not len(pieces) or pieces.max() == 0:
        return segment
    areas = np.bincount(pieces, weights=runs.bottoms - runs.tops)
    return _with_rle(segment, to_rle(runs.only(pieces == areas.argmax())))


def _holes(rle: RLE, most: int) -> tuple[Positions, Positions]:
    """Starts and ends of the pixels of holes of at most so many pixels: 4-connected pieces of nothing that do not reach the border."""
    zeros = complement(column_runs(rle))
    height, width = rle.size
    pieces = components(zeros)
    if not len(pieces):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    outside = (zeros.columns == 0) | (zeros.columns == width - 1) | (zeros.tops == 0) | (zeros.bottoms == height)
    open_pieces = np.zeros(pieces.max() + 1, bool)
    open_pieces[pieces[outside]] = True
    small = np.bincount(pieces, weights=zeros.bottoms - zeros.tops) <= most
    holes = zeros.only((small & ~open_pieces)[pieces])
    return holes.columns * height + holes.tops, holes.columns * height + holes.bottoms


def _filled(segments: Sequence[Segment], most: int, *, overlapping: bool) -> list[Segment]:
    masks = [runs_of_ones(segment.segmentation) for segment in segments]
    taken = _cover(masks) if masks and not overlapping else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    result = []
    for segment, mask in zip(segments, masks, strict=True):
        holes = _minus(_holes(segment.segmentation, most), taken)
        # A hole inside a hole's island is filled by whoever comes first; afterwards it is taken.
        if len(holes[0]):
            segment = _with_mask(segment, _cover([mask, holes]))
            taken = taken if overlapping else _cover([taken, holes])
        result.append(segment)
    return result
