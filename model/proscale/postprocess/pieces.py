"""Things that are one connected piece each, such as nuclei: what lies apart is counted apart, and what was cut in two is joined.

Queries make two mistakes with many small things that look alike. One query answers for several of them, and two queries share one.
Where the things are known to be connected, both show in the panoptic map alone: a segment in several pieces is several things, and two
pieces that have a large part of an outline in common are one thing, because round things touch along little of theirs.

All is done on runs, so that it takes the same time at any size of picture.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from proscale.postprocess.found import Found

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PieceRule:
    """For which classes, and how."""

    connected: Sequence[bool]
    """Per class, whether each of its things is one connected piece."""
    join_share: float
    """Two pieces are one thing when they share at least so much of the outline of the one with the shorter outline."""
    min_pixels: int
    """Smaller pieces are left out, in pixels of the output."""


@dataclass(frozen=True)
class _Strips:
    """Runs that end where a column ends; they cover every pixel, in picture order. Three arrays (N,)."""

    starts: Integers
    lengths: Integers
    segments: Integers
    """-1: none."""


@dataclass(frozen=True)
class _Contacts:
    """Where strips touch: `first` and `second` (M,) share `edges` (M,) pixel edges."""

    first: Integers
    second: Integers
    edges: Integers


def whole_things(found: Found, rule: PieceRule) -> Found:
    """Apply the rule to a panoptic result; other classes and their order stay as they are.

    A joined thing has the highest score of its parts and the place of its largest.

    Args: found: runs that cover every pixel, one candidate per mask.
    """
    apart = np.array([rule.connected[class_index] for class_index, _, _ in found.candidates] + [False], np.bool_)
    if not apart.any():
        return found
    strips = _strips(found)
    contacts = _contacts(strips.starts, found.size)
    pieces, count = _pieces(strips.segments, contacts, apart)
    areas = np.bincount(np.where(pieces < 0, count, pieces), strips.lengths, count + 1)[:-1].astype(np.int64)
    outlines, borders = _outlines(pieces, count, strips, contacts, found.size)
    owners = np.full(count, -1)
    owners[pieces[pieces >= 0]] = strips.segments[pieces >= 0]
    classes = [found.candidates[owner][0] for owner in owners.tolist()]
    joinable = {pair: edges for pair, edges in borders.items() if apart[owners[list(pair)]].all() and classes[pair[0]] == classes[pair[1]]}
    roots = join(outlines, joinable, rule.join_share)
    return _found(found, strips, pieces, owners, areas, roots, apart, rule.min_pixels)


def join(outlines: Sequence[int], borders: Mapping[tuple[int, int], int], share: float) -> list[int]:
    """Join pieces pair by pair, those first that share most of the shorter outline, until no pair shares `share` of it.

    Args:
        outlines: pixel edges around each piece.
        borders: pixel edges between pieces i < j.

    Returns:
        per piece the piece that stands for what it belongs to.
    """
    around, root = list(outlines), list(range(len(outlines)))
    touching: list[dict[int, int]] = [{} for _ in outlines]
    for (i, j), edges in borders.items():
        touching[i][j] = touching[j][i] = edges
    heap = [(-edges / min(around[i], around[j]), i, j) for (i, j), edges in borders.items()]
    heapq.heapify(heap)
    while heap and -heap[0][0] >= share:
        value, i, j = heapq.heappop(heap)
        # Joining changes outlines and borders; what was said of them before is void.
        if j not in touching[i] or value != -touching[i][j] / min(around[i], around[j]):
            continue
        around[i] += around[j] - 2 * touching[i].pop(j)
        root[j] = i
        del touching[j][i]
        for k, edges in touching[j].items():
            del touching[k][j]
            touching[i][k] = touching[k][i] = touching[i].get(k, 0) + edges
        touching[j] = {}
        for k, edges in touching[i].items():
            heapq.heappush(heap, (-edges / min(around[i], around[k]), min(i, k), max(i, k)))
    for piece in range(len(root)):
        while root[root[piece]] != root[piece]:
            root[piece] = root[root[piece]]
    return root


def _strips(found: Found) -> _Strips:
    height, width = found.size
    runs = found.runs.cpu().numpy().astype(np.int64)
    # Cut at the beginning of every column.
    starts = np.union1d(runs[:, 0], np.arange(0, height * width, height))
    codes = runs[np.searchsorted(runs[:, 0], starts, "right") - 1, 2]
    return _Strips(starts, np.diff(starts, append=height * width), np.asarray(found.table, np.int64)[codes])


def _contacts(starts: Integers, size: tuple[int, int]) -> _Contacts:
    """Neighbours to the right, which overlap in rows, and below."""
    height, width = size
    cuts = np.union1d(starts[starts >= height], (starts + height)[starts + height < height * width])
    right, left = (np.searchsorted(starts, positions, "right") - 1 for positions in (cuts, cuts - height))
    upper = np.flatnonzero(starts[1:] % height)
    return _Contacts(
        np.concatenate([left, upper]),
        np.concatenate([right, upper + 1]),
        np.concatenate([np.diff(cuts, append=height * width), np.ones(len(upper), np.int64)]),
    )


def _pieces(segments: Integers, contacts: _Contacts, apart: NDArray[np.bool_]) -> tuple[Integers, int]:
    """Per strip its piece, -1 for none, and how many there are. A segment that is not to be taken apart is one piece."""
    same = segments[contacts.first] == segments[contacts.second]
    linked = same & apart[segments[contacts.first]]
    nodes = len(segments)
    ends = (contacts.first[linked], contacts.second[linked])
    labels = connected_components(coo_array((np.ones(len(ends[0]), np.bool_), ends), shape=(nodes, nodes)), directed=False)[1]
    keys = np.where(apart[segments], labels, nodes + segments)
    taken = segments >= 0
    pieces = np.full(nodes, -1)
    names, pieces[taken] = np.unique(keys[taken], return_inverse=True)
    return pieces, len(names)


def _outlines(
    pieces: Integers, count: int, strips: _Strips, contacts: _Contacts, size: tuple[int, int]
) -> tuple[list[int], dict[tuple[int, int], int]]:
    """Pixel edges around every piece, those at the picture's border too; and between pieces i < j."""
    height, width = size
    one, other = pieces[contacts.first], pieces[contacts.second]
    differ = one != other
    one, other, edges = one[differ], other[differ], contacts.edges[differ]
    ends = strips.starts + strips.lengths
    at_border = (strips.starts % height == 0).astype(np.int64) + (ends % height == 0)
    at_border += strips.lengths * ((strips.starts < height).astype(np.int64) + (ends > height * (width - 1)))
    outlines = np.zeros(count + 1, np.int64)  # the last for none
    for which, much in ((one, edges), (other, edges), (pieces, at_border)):
        outlines += np.bincount(np.where(which < 0, count, which), much, count + 1).astype(np.int64)
    both = (one >= 0) & (other >= 0)
    keys, inverse = np.unique(np.minimum(one, other)[both] * count + np.maximum(one, other)[both], return_inverse=True)
    shared = np.bincount(inverse, edges[both], len(keys)).astype(np.int64)
    borders = {divmod(key, count): much for key, much in zip(keys.tolist(), shared.tolist(), strict=True)}
    return outlines[:-1].tolist(), borders


def _found(
    found: Found,
    strips: _Strips,
    pieces: Integers,
    owners: Integers,
    areas: Integers,
    roots: Sequence[int],
    apart: NDArray[np.bool_],
    min_pixels: int,
) -> Found:
    """The result with one mask per thing."""
    parts: dict[int, list[int]] = {}
    for piece, root in enumerate(roots):
        parts.setdefault(root, []).append(piece)
    things = []
    for members in parts.values():
        largest = max(members, key=lambda piece: areas[piece])
        if apart[owners[largest]] and areas[members].sum() < min_pixels:
            continue
        score = max(found.candidates[owners[piece]][1] for piece in members)
        things.append((int(owners[largest]), largest, score, members))
    things.sort(key=lambda thing: thing[:2])
    table = [-1] * (len(roots) + 1)
    for mask, (_, _, _, members) in enumerate(things):
        for piece in members:
            table[piece] = mask
    codes = np.where(pieces < 0, len(roots), pieces)
    runs = np.stack([strips.starts, strips.starts + strips.lengths, codes], 1).astype(np.int32)
    candidates = [(found.candidates[owner][0], score, mask) for mask, (owner, _, score, _) in enumerate(things)]
    return Found(found.size, torch.from_numpy(runs), table, len(things), candidates)
