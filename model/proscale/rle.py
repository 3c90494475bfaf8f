"""Masks <-> COCO run-length encoding, byte for byte as pycocotools writes it; one pass for a whole map of ids.

The format: runs of a column-major mask, zeros first; run lengths as a compressed ASCII string, each (from the fourth) as its
difference from the run two before, in 5-bit groups, lowest first, with a continuation bit, offset by 48.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    part = np.repeat(values, lengths).reshape(columns, height)[:, top : top + rows]
    mask = np.empty((rows, columns), dtype=bool)
    for start in range(0, columns, _TRANSPOSED_AT_ONCE):  # as many as stay in the cache
        block = slice(start, start + _TRANSPOSED_AT_ONCE)
        mask[:, block] = part[block].T
    return mask


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
    if codes.min() < 0 or codes.max() >= 2 * _CONTINUE or codes[-1] & _CONTINUE:
        raise ValueError("not a COCO RLE string")
    last = np.flatnonzero((codes & _CONTINUE) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    shift = (np.arange(len(codes)) - np.repeat(first, last - first + 1)) * _GROUP_BITS
    values = np.add.reduceat((codes & (_CONTINUE - 1)) << shift, first)
    negative = (codes[last] & _SIGN) != 0
    values -= np.where(negative, np.int64(1) << (shift[last] + _GROUP_BITS), 0)
    # Undo the difference to the run two before: two interleaved running sums, which start at runs 1 and 2.
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


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
