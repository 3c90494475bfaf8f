"""Masks <-> COCO run-length encoding, byte for byte as pycocotools writes it; one pass for a whole map of ids.

The format: runs of a column-major mask, zeros first; run lengths as a compressed ASCII string, each (from the fourth) as its
difference from the run two before, in 5-bit groups, lowest first, with a continuation bit, offset by 48.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.results import RLE

_GROUP_BITS, _CONTINUE, _SIGN, _OFFSET = 5, 0x20, 0x10, 48
_MAX_GROUPS = 7
_TRANSPOSED_AT_ONCE = 64


@dataclass(frozen=True)
class MeasuredMask:
    """A mask with what its runs tell at once."""

    rle: RLE
    area: int
    """Pixels."""
    bbox: tuple[int, int, int, int]
    """(x, y, width, height) in pixels; all zero for an empty mask."""


def encode(mask: NDArray[np.bool_]) -> RLE:
    """Encode one mask (H, W), bool."""
    height, width = mask.shape
    flat = np.ascontiguousarray(mask.T).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(edges) if flat.size else np.zeros(1, np.int64)
    if flat.size and flat[0]:
        runs = np.concatenate([[0], runs])
    return RLE((height, width), compress(runs))


def encode_id_map(ids: NDArray[np.integer], wanted: Sequence[int]) -> dict[int, RLE]:
    """Encode the mask of every wanted id of a map in one pass; what disjoint masks (panoptic, semantic) allow.

    Args:
        ids: (H, W) integers.
        wanted: ids to encode; one that does not occur gets an empty mask.

    Returns:
        id -> RLE, in the order of `wanted`; equal to `encode(ids == id)`.
    """
    height, width = ids.shape
    flat = np.ascontiguousarray(ids.T).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)
    ends = np.concatenate([starts[1:], [flat.size]])[: len(starts)]
    run_ids = flat[starts]
    # A stable sort brings the runs of one id together, still in picture order.
    order = np.argsort(run_ids, kind="stable")
    sorted_ids, starts, ends = run_ids[order], starts[order], ends[order]
    lower, upper = np.searchsorted(sorted_ids, wanted, "left"), np.searchsorted(sorted_ids, wanted, "right")
    encoded = {}
    for wanted_id, low, high in zip(wanted, lower, upper, strict=True):
        # Edges alternate zeros|ones|zeros...: 0, start, end, start, end, ..., total.
        edges = np.zeros(2 * (high - low) + 2, np.int64)
        edges[1:-1:2], edges[2:-1:2], edges[-1] = starts[low:high], ends[low:high], flat.size
        runs = np.diff(edges)
        if len(runs) > 1 and runs[-1] == 0:
            runs = runs[:-1]
        encoded[wanted_id] = RLE((height, width), compress(runs))
    return encoded


def encode_run_table(runs: NDArray[np.integer], table: NDArray[np.integer], count: int, size: tuple[int, int]) -> list[MeasuredMask]:
    """Encode masks from runs of pixels; the reference form of the compiled `encode_runs`, which `proscale.ops.rle` prefers.

    Args:
        runs: (R, 3) integers: start, end (behind the last pixel) and code; positions column-major, those of one mask in order.
        table: (codes,) integers: code -> mask in 0..count - 1, or negative for none.
        count: how many masks.
        size: (height, width) in pixels.
    """
    known = (runs[:, 2] >= 0) & (runs[:, 2] < len(table))
    runs = runs[known].astype(np.int64)
    owners = np.asarray(table, np.int64)[runs[:, 2]]
    order = np.argsort(owners, kind="stable")
    owners, starts, ends = owners[order], runs[order, 0], runs[order, 1]
    masks = []
    for mask in range(count):
        low, high = np.searchsorted(owners, mask, "left"), np.searchsorted(owners, mask, "right")
        # Runs that touch, of codes that share a mask, are one.
        apart = starts[low + 1 : high] != ends[low : high - 1] if high > low else np.zeros(0, bool)
        edges = np.zeros(2 * (int(apart.sum()) + (high > low)) + 2, np.int64)
        if high > low:
            edges[1:-1:2] = starts[low:high][np.concatenate([[True], apart])]
            edges[2:-1:2] = ends[low:high][np.concatenate([apart, [True]])]
        edges[-1] = size[0] * size[1]
        lengths = np.diff(edges)
        if len(lengths) > 1 and lengths[-1] == 0:
            lengths = lengths[:-1]
        rle = RLE(size, compress(lengths))
        masks.append(MeasuredMask(rle, *measure(rle)))
    return masks


def decode(rle: RLE, box: tuple[int, int, int, int] | None = None) -> NDArray[np.bool_]:
    """The mask (H, W), bool, of an RLE.

    Args:
        box: x, y, width and height of the part of it that is wanted, inside of it; None: all.

    Raises:
        ValueError: the runs do not fill the size.
    """
    height, width = rle.size
    runs = decompress(rle.counts)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"the runs of an RLE of size {rle.size} cover {runs.sum()} pixels, not {height * width}")
    left, top, columns, rows = box or (0, 0, width, height)
    first, last = left * height, (left + columns) * height
    lengths = np.diff(runs.cumsum().clip(first, last), prepend=first)
    values = np.arange(len(runs)) % 2 == 1
    return _by_rows(np.repeat(values, lengths).reshape(columns, height)[:, top : top + rows])


def runs_of_ones(rle: RLE) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends (behind the last pixel) of the runs of ones; column-major positions in pixels.

    Raises:
        ValueError: the string is broken, or its runs do not fill the size.
    """
    runs = decompress(rle.counts)
    if runs.sum() != rle.size[0] * rle.size[1] or (runs < 0).any():
        raise ValueError(f"the runs of an RLE of size {rle.size} cover {runs.sum()} pixels, not {rle.size[0] * rle.size[1]}")
    edges = np.cumsum(runs)
    starts, ends = edges[:-1:2], edges[1::2]
    filled = ends > starts
    return starts[filled], ends[filled]


def runs_of_all(masks: Sequence[RLE]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """`runs_of_ones` of many masks at once: starts, ends, and which of the masks each run is of; mask by mask.

    Raises:
        ValueError: see `runs_of_ones`.
    """
    runs, counts = _decompress_all([mask.counts for mask in masks])
    before = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0], np.cumsum(runs)])
    pixels = np.array([mask.size[0] * mask.size[1] for mask in masks], np.int64)
    if (np.diff(total[before]) != pixels).any() or (runs < 0).any():
        for mask in masks:
            runs_of_ones(mask)  # the one that is broken says so
    # Of every mask the second, the fourth and so on.
    ones = np.flatnonzero((np.arange(len(runs)) - np.repeat(before[:-1], counts)) % 2)
    owners = np.repeat(np.arange(len(masks)), counts // 2)
    starts, ends = total[ones] - total[before[owners]], total[ones + 1] - total[before[owners]]
    filled = ends > starts
    return starts[filled], ends[filled], owners[filled]


def overlap(masks: Sequence[RLE]) -> bool:
    """Whether masks of one size share a pixel."""
    starts, ends, _ = _sorted_runs(masks)
    return bool((starts[1:] < ends[:-1]).any())


def decode_id_map(
    masks: Sequence[RLE],
    ids: Sequence[int],
    size: tuple[int, int],
    dtype: type[np.unsignedinteger[Any]] = np.uint16,
    background: int = 0,
) -> NDArray[np.unsignedinteger[Any]]:
    """Map (H, W) of the mask that covers each pixel, by its id; where several do, the last is on top. The inverse of `encode_id_map`.

    Args:
        ids: one per mask; they fit the type.
        background: where no mask is.

    Raises:
        ValueError: see `runs_of_ones`.
    """
    height, width = size
    starts, ends, owners = _sorted_runs(masks)
    if (starts[1:] < ends[:-1]).any():
        flat = np.full(height * width, background, dtype)
        for mask, number in zip(masks, ids, strict=True):
            for start, end in zip(*(each.tolist() for each in runs_of_ones(mask)), strict=True):
                flat[start:end] = number
    else:
        values, edges = np.full(2 * len(starts) + 1, background, dtype), np.zeros(2 * len(starts) + 2, np.int64)
        values[1::2], edges[1:-1:2], edges[2:-1:2], edges[-1] = np.asarray(ids, dtype)[owners], starts, ends, height * width
        flat = np.repeat(values, np.diff(edges))
    return _by_rows(flat.reshape(width, height))


def _sorted_runs(masks: Sequence[RLE]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """`runs_of_all` in the order of their starts."""
    starts, ends, owners = runs_of_all(masks)
    order = np.argsort(starts, kind="stable")
    return starts[order], ends[order], owners[order]


def _by_rows(columns: NDArray[Any]) -> NDArray[Any]:
    """(W, H), a picture's columns -> (H, W), its rows, both contiguous."""
    width, height = columns.shape
    rows = np.empty((height, width), columns.dtype)
    for start in range(0, width, _TRANSPOSED_AT_ONCE):  # as many as stay in the cache
        block = slice(start, start + _TRANSPOSED_AT_ONCE)
        rows[:, block] = columns[block].T
    return rows


def compress(runs: NDArray[np.int64]) -> str:
    """Run lengths -> COCO's ASCII string."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    groups = np.zeros((len(values), _MAX_GROUPS), np.uint8)
    lengths = np.zeros(len(values), np.int64)
    active = np.arange(len(values))
    rest = values
    for position in range(_MAX_GROUPS):
        group = rest & (_CONTINUE - 1)
        rest = rest >> _GROUP_BITS
        # Done when what is left is only the sign that the group's top bit already tells.
        more = np.where(group & _SIGN, rest != -1, rest != 0)
        groups[active, position] = group + more * _CONTINUE + _OFFSET
        lengths[active] = position + 1
        active, rest = active[more], rest[more]
        if not len(active):
            break
    return groups[np.arange(_MAX_GROUPS) < lengths[:, None]].tobytes().decode("ascii")


def decompress(counts: str) -> NDArray[np.int64]:
    """COCO's ASCII string -> run lengths.

    Raises:
        ValueError: the string is cut off or holds characters that the format does not use.
    """
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _OFFSET
    if not len(codes):
        return np.zeros(0, np.int64)
    values = _values(codes, codes[-1:])
    # Undo the difference to the run two before: two interleaved running sums, which start at runs 1 and 2.
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def _decompress_all(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`decompress` of many strings: their run lengths one after the other, and how many each has."""
    codes = np.frombuffer("".join(texts).encode("ascii"), np.uint8).astype(np.int64) - _OFFSET
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    counts = np.diff(np.searchsorted(np.flatnonzero((codes & _CONTINUE) == 0), ends), prepend=0)
    if not len(codes):
        return np.zeros(0, np.int64), counts
    values = _values(codes, codes[ends[np.diff(ends, prepend=0) > 0] - 1])
    # Undo the difference to the run two before: two interleaved running sums per string, which start at its runs 1 and 2.
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    for chosen, of_each in ((place % 2 == 1, counts // 2), ((place % 2 == 0) & (place > 0), np.maximum(counts - 1, 0) // 2)):
        sums = np.concatenate([[0], np.cumsum(values[chosen])])
        values[chosen] = sums[1:] - np.repeat(sums[np.cumsum(of_each) - of_each], of_each)
    return values, counts


def _values(codes: NDArray[np.int64], final: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers that strings hold. Args: codes: of all characters; final: of those that strings end with."""
    if codes.min() < 0 or codes.max() >= 2 * _CONTINUE or (final & _CONTINUE).any():
        raise ValueError("not a COCO RLE string")
    last = np.flatnonzero((codes & _CONTINUE) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    shift = (np.arange(len(codes)) - np.repeat(first, last - first + 1)) * _GROUP_BITS
    values: NDArray[np.int64] = np.add.reduceat((codes & (_CONTINUE - 1)) << shift, first)
    negative = (codes[last] & _SIGN) != 0
    values -= np.where(negative, np.int64(1) << (shift[last] + _GROUP_BITS), 0)
    return values


def measure(rle: RLE) -> tuple[int, tuple[int, int, int, int]]:
    """Area in pixels and bounding box (x, y, width, height) of a mask, from its runs; all zero when it is empty."""
    height = rle.size[0]
    ends = np.cumsum(decompress(rle.counts))
    starts, ends = ends[:-1:2], ends[1::2]  # of the runs of ones
    if not len(starts):
        return 0, (0, 0, 0, 0)
    left, right = starts[0] // height, (ends[-1] - 1) // height
    top, bottom = starts % height, (ends - 1) % height
    # A run that goes on in the next column touches the bottom edge and the top edge.
    if (starts // height != (ends - 1) // height).any():
        first_row, last_row = 0, height - 1
    else:
        first_row, last_row = int(top.min()), int(bottom.max())
    area = int((ends - starts).sum())
    return area, (int(left), first_row, int(right - left + 1), last_row - first_row + 1)
