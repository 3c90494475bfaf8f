"""Things of one piece: the rule on runs against the rule on pixels, and what it is for."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from proscale.ops.rle import map_runs
from proscale.postprocess.found import Found
from proscale.postprocess.pieces import PieceRule, join, whole_things
from proscale.rle import decode, encode

Map = NDArray[np.int32]

NUCLEUS, BALL, SKY = 0, 1, 2
CONNECTED = [True, False, False]


def found_in(ids: Map, classes: Sequence[int], scores: Sequence[float] | None = None) -> Found:
    """A panoptic result: segment i of the map has class `classes[i - 1]`."""
    scores = scores or [0.5 + i / 100 for i in range(len(classes))]
    candidates = [(class_index, score, i) for i, (class_index, score) in enumerate(zip(classes, scores, strict=True))]
    return Found((ids.shape[0], ids.shape[1]), map_runs(torch.from_numpy(ids)), [-1, *range(len(classes))], len(classes), candidates)


def masks_of(found: Found) -> list[tuple[int, float, NDArray[np.bool_]]]:
    return [(class_index, score, decode(mask.rle).astype(bool)) for class_index, score, mask in found.encode()]


def flood(ids: Map, apart: set[int]) -> list[tuple[int, set[tuple[int, int]]]]:
    """Segments, those of `apart` in 4-connected pieces, in the order of their first pixel down the columns."""
    height, width = ids.shape
    seen, pieces = set[tuple[int, int]](), list[tuple[int, set[tuple[int, int]]]]()
    for x in range(width):
        for y in range(height):
            if (y, x) in seen or not ids[y, x]:
                continue
            if ids[y, x] in apart:
                piece, waiting = {(y, x)}, [(y, x)]
                while waiting:
                    row, column = waiting.pop()
                    for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                        inside = 0 <= place[0] < height and 0 <= place[1] < width
                        if inside and place not in piece and ids[place] == ids[y, x]:
                            piece.add(place)
                            waiting.append(place)
            else:
                piece = {(int(row), int(column)) for row, column in np.argwhere(ids == ids[y, x])}
            seen |= piece
            pieces.append((int(ids[y, x]), piece))
    return pieces


def edges_between(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> int:
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return sum((y + dy, x + dx) in other for y, x in one for dy, dx in steps)


def outline_of(piece: set[tuple[int, int]]) -> int:
    return 4 * len(piece) - edges_between(piece, piece)


def joined_slowly(pieces: list[set[tuple[int, int]]], share: float) -> list[set[tuple[int, int]]]:
    """Join the pair with the largest share, measured anew on pixels after every joining."""
    pieces = list(pieces)
    while True:
        best = max(
            (
                (edges_between(a, b) / min(outline_of(a), outline_of(b)), -i, -j)
                for i, a in enumerate(pieces)
                for j, b in enumerate(pieces)
                if i < j and a and b
            ),
            default=(0.0, 0, 0),
        )
        if best[0] < share or best[0] == 0:
            return [piece for piece in pieces if piece]
        i, j = -best[1], -best[2]
        pieces[i], pieces[j] = pieces[i] | pieces[j], set()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.2, 0.35, 2.0]), st.sampled_from([0, 3]))
def test_it_equals_the_definition_on_pixels(seed: int, height: int, width: int, share: float, min_pixels: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 6, (height, width)), np.ones((1, 2))).astype(np.int32)
    classes = rng.integers(0, 3, 5).tolist()
    # In the rule's own order of pieces, in which ties are decided: segments to be taken apart first.
    apart = {i for i, class_index in enumerate(classes, 1) if class_index == NUCLEUS}
    pieces = flood(ids, apart)
    nuclei = [piece for segment, piece in pieces if segment in apart]
    expected = {frozenset(piece) for piece in joined_slowly(nuclei, share) if len(piece) >= min_pixels}
    expected |= {frozenset(piece) for segment, piece in pieces if segment not in apart}

    result = whole_things(found_in(ids, classes), PieceRule(CONNECTED, share, min_pixels))

    got = [frozenset((int(y), int(x)) for y, x in np.argwhere(mask)) for _, _, mask in masks_of(result)]
    present = [piece for piece in got if piece]
    assert len(set(present)) == len(present)
    assert set(present) == expected
    for class_index, _, mask in masks_of(result):
        assert {classes[i - 1] for i in np.unique(ids[mask])} <= {class_index}


def test_a_query_for_several_nuclei_gives_several() -> None:
    ids = np.zeros((40, 60), np.int32)
    for x in (5, 25, 45):
        ids[10:20, x : x + 10] = 1
    result = masks_of(whole_things(found_in(ids, [NUCLEUS], [0.9]), PieceRule(CONNECTED, 0.25, 0)))
    assert [int(mask.sum()) for _, _, mask in result] == [100, 100, 100]
    assert [score for _, score, _ in result] == [0.9] * 3


def test_two_queries_on_one_nucleus_give_one_and_touching_nuclei_stay_two() -> None:
    y, x = np.mgrid[:60, :120]
    first = (y - 30) ** 2 + (x - 30) ** 2 < 15**2
    second, third = (y - 30) ** 2 + (x - 75) ** 2 < 12**2, (y - 30) ** 2 + (x - 97) ** 2 < 12**2
    ids = np.zeros(y.shape, np.int32)
    ids[first & (x < 33)], ids[first & (x >= 33)] = 1, 2
    ids[second & (x < 86)], ids[third & (x >= 86)] = 3, 4
    result = masks_of(whole_things(found_in(ids, [NUCLEUS] * 4, [0.7, 0.9, 0.6, 0.6]), PieceRule(CONNECTED, 0.25, 0)))
    assert len(result) == 3
    assert (result[0][2] == first).all()
    assert result[0][1] == 0.9  # the better of the two queries


def test_other_classes_stay_as_they_are() -> None:
    ids = np.zeros((30, 30), np.int32)
    ids[:10, :10] = ids[20:, 20:] = 1  # a ball in two parts, behind something
    ids[12:18] = 2
    found = found_in(ids, [BALL, SKY])
    assert whole_things(found, PieceRule(CONNECTED, 0.25, 50)) is found
    with_nucleus = ids.copy()
    with_nucleus[25, 3] = 3
    result = masks_of(whole_things(found_in(with_nucleus, [BALL, SKY, NUCLEUS]), PieceRule(CONNECTED, 0.25, 2)))
    assert [(class_index, int(mask.sum())) for class_index, _, mask in result] == [(BALL, 200), (SKY, 180)]


def test_masks_are_encoded_as_whole_ones_are() -> None:
    ids = (np.random.default_rng(3).random((31, 17)) < 0.6).astype(np.int32)
    for _, _, mask in whole_things(found_in(ids, [NUCLEUS]), PieceRule(CONNECTED, 2.0, 0)).encode():
        assert mask.rle == encode(decode(mask.rle))


@pytest.mark.parametrize(("share", "roots"), [(0.5, [0, 0, 2]), (0.3, [0, 0, 0]), (0.7, [0, 1, 2])])
def test_joining_counts_the_joined_outline(share: float, roots: list[int]) -> None:
    # 0 and 1 share 6 of 10; together their outline is 30 + 10 - 12, and 2 shares 5 of its 12.
    assert join([30, 10, 12], {(0, 1): 6, (1, 2): 2, (0, 2): 3}, share) == roots
