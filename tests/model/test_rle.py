"""COCO run-length encoding, against pycocotools."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from proscale.results import RLE
from proscale.rle import decode, decode_id_map, decompress, encode, encode_id_map, measure, overlap, runs_of_all, runs_of_ones


@st.composite
def id_maps(draw: st.DrawFn) -> NDArray[np.int32]:
    """Maps of few ids in blocks of any size, so that runs are short, long, and everything between."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    block = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = rng.integers(0, draw(st.integers(1, 6)), (-(-height // block), -(-width // block)), dtype=np.int32)
    return np.kron(ids, np.ones((block, block), np.int32))[:height, :width]


def coco_encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(id_maps())
def test_id_map_is_encoded_as_pycocotools_encodes_each_mask(ids: NDArray[np.int32]) -> None:
    wanted = [5, 0, 3, 1, 99]
    encoded = encode_id_map(ids, wanted)
    assert list(encoded) == wanted
    for wanted_id, rle in encoded.items():
        mask = ids == wanted_id
        reference = coco_encode(mask)
        assert rle.counts == reference["counts"].decode()
        assert list(rle.size) == reference["size"]
        assert rle == encode(mask)
        assert np.array_equal(decode(rle), mask)
        area, bbox = measure(rle)
        assert area == coco.area(reference)
        assert list(bbox) == coco.toBbox(reference).tolist()


def test_long_runs_take_several_characters() -> None:
    mask = np.zeros((2000, 3000), dtype=bool)
    mask[:, 1500] = True
    mask[7, 1503:1600] = True
    reference = coco_encode(mask)
    assert encode(mask).counts == reference["counts"].decode()
    assert np.array_equal(decode(encode(mask)), mask)


@settings(max_examples=200, deadline=None)
@given(id_maps(), st.data())
def test_a_decoded_crop_equals_the_crop_of_the_mask(ids: NDArray[np.int32], data: st.DataObject) -> None:
    height, width = ids.shape
    left, top = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    columns, rows = data.draw(st.integers(0, width - left)), data.draw(st.integers(0, height - top))
    part = decode(encode(ids == 0), (left, top, columns, rows))
    assert np.array_equal(part, (ids == 0)[top : top + rows, left : left + columns])


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.ones((4, 5), bool), np.zeros((1, 1), bool), np.ones((1, 1), bool)])
def test_full_and_empty_masks(mask: NDArray[np.bool_]) -> None:
    assert encode(mask).counts == coco_encode(mask)["counts"].decode()
    assert np.array_equal(decode(encode(mask)), mask)


@pytest.mark.parametrize("counts", ["\x7f", "P", "!", "0P"])
def test_strings_that_are_no_rle_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="not a COCO RLE"):
        decompress(counts)


def test_runs_must_fill_the_size() -> None:
    with pytest.raises(ValueError, match="cover 20 pixels, not 24"):
        decode(RLE((4, 6), encode(np.ones((4, 5), bool)).counts))


@settings(max_examples=100, deadline=None)
@given(id_maps(), st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_masks_of_an_id_map_make_the_map_again(ids: NDArray[np.int32], dtype: type[np.unsignedinteger]) -> None:
    wanted = [5, 3, 1, 2]
    masks = list(encode_id_map(ids, wanted).values())
    assert not overlap(masks)
    again = decode_id_map(masks, wanted, ids.shape, dtype, background=9)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, np.where(np.isin(ids, wanted), ids, 9))


def test_the_last_of_overlapping_masks_is_on_top() -> None:
    masks = np.random.default_rng(2).random((3, 8, 11)) < 0.5
    encoded = [encode(mask) for mask in masks]
    assert overlap(encoded)
    expected = np.zeros((8, 11), int)
    for number, mask in enumerate(masks, 1):
        expected[mask] = number
    np.testing.assert_array_equal(decode_id_map(encoded, [1, 2, 3], (8, 11)), expected)
    np.testing.assert_array_equal(decode_id_map([], [], (8, 11)), np.zeros((8, 11)))


@settings(max_examples=100, deadline=None)
@given(id_maps())
def test_runs_of_many_masks_are_those_of_each(ids: NDArray[np.int32]) -> None:
    masks = [*encode_id_map(ids, [0, 1, 99, 2]).values(), encode(np.zeros((0, 0), bool)), encode(ids >= 0)]
    starts, ends, owners = runs_of_all(masks)
    for number, mask in enumerate(masks):
        for found, expected in zip((starts, ends), runs_of_ones(mask), strict=True):
            np.testing.assert_array_equal(found[owners == number], expected)


@pytest.mark.parametrize("counts", ["P", "p~", "0" + "P"])
def test_one_broken_string_among_many_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match=r"not a COCO RLE string|cover"):
        runs_of_all([encode(np.ones((3, 3), bool)), RLE((3, 3), counts), encode(np.ones((3, 3), bool))])
