"""Maps and masks to COCO RLE, compiled, in torch and in numpy, against pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from proscale.ops import native
from proscale.ops.rle import encode_runs, map_runs, map_runs_reference, mask_runs, mask_runs_reference
from proscale.rle import MeasuredMask, encode_run_table

needs_library = pytest.mark.skipif(native.STATUS.cpu is None, reason=f"the operator is not compiled: {native.STATUS.cpu_reason}")


@st.composite
def maps(draw: st.DrawFn) -> NDArray[np.int32]:
    """Maps of few ids in blocks of any size; also of one row, one column and one pixel."""
    height, width = draw(st.sampled_from([1, 2, 31, 64])), draw(st.one_of(st.just(1), st.integers(1, 90)))
    if draw(st.booleans()):
        height, width = width, height
    block = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = rng.integers(0, draw(st.integers(1, 6)), (-(-height // block), -(-width // block)), dtype=np.int32)
    return np.kron(ids, np.ones((block, block), np.int32))[:height, :width]


def same_as_pycocotools(mask: MeasuredMask, pixels: NDArray[np.bool_]) -> None:
    reference = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    assert mask.rle.counts == reference["counts"].decode()
    assert list(mask.rle.size) == reference["size"]
    assert mask.area == coco.area(reference)
    assert list(mask.bbox) == coco.toBbox(reference).tolist()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(maps(), st.sampled_from([torch.int32, torch.int16, torch.uint8, torch.int64]), st.booleans())
def test_runs_of_maps_agree_with_the_reference(ids: NDArray[np.int32], dtype: torch.dtype, column_major: bool) -> None:
    tensor = torch.tensor(ids).to(dtype)
    if column_major:
        tensor = tensor.T.contiguous().T
    runs = map_runs(tensor)
    assert torch.equal(runs, map_runs_reference(tensor))
    # Ids 1 and 4 share a mask, 0 has none, 9 does not occur.
    table = [-1, 0, 1, 2, 0, 3, -1, -1, -1, 4]
    masks = encode_runs(runs, table, 5, ids.shape)
    for mask, wanted in zip(masks, ([1, 4], [2], [3], [5], [9]), strict=True):
        same_as_pycocotools(mask, np.isin(ids, wanted))
    assert encode_run_table(runs.numpy(), np.array(table), 5, ids.shape) == masks


@settings(max_examples=100, deadline=None)
@given(maps(), st.integers(0, 7))
def test_runs_of_overlapping_masks_agree_with_the_reference(ids: NDArray[np.int32], bits: int) -> None:
    pixels = np.stack([ids & bits > 0, ids > 1, ids < 3, np.zeros_like(ids, bool), np.ones_like(ids, bool)])
    runs = mask_runs(torch.from_numpy(pixels))
    assert torch.equal(runs, mask_runs_reference(torch.from_numpy(pixels)))
    masks = encode_runs(runs, range(5), 5, ids.shape)
    for mask, own in zip(masks, pixels, strict=True):
        same_as_pycocotools(mask, own)
    assert encode_run_table(runs.numpy(), np.arange(5), 5, ids.shape) == masks


def test_more_than_65536_runs_and_long_runs_are_encoded() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (700, 500), dtype=np.int32)
    noise[:, 100:300] = 1
    for mask, wanted in zip(encode_runs(map_runs(torch.from_numpy(noise)), [0, 1, 2], 3, noise.shape), range(3), strict=True):
        same_as_pycocotools(mask, noise == wanted)
    long = np.zeros((2000, 3000), np.int32)
    long[7, 1503:1600] = 1
    (mask,) = encode_runs(map_runs(torch.from_numpy(long)), [-1, 0], 1, long.shape)
    same_as_pycocotools(mask, long == 1)


@needs_library
def test_runs_that_do_not_fit_are_refused() -> None:
    run = torch.tensor([[0, 30, 0]], dtype=torch.int32)
    for runs, table, words in ((run, [0], "does not exist"), (run, [3], "does not exist"), (run.long(), [0], "int32")):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.proscale.encode_runs(runs, torch.tensor(table, dtype=torch.int32), 1, 4, 5)
