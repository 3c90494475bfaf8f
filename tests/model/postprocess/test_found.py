"""The compiled pass from logits to runs against the functions that make whole masks."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proscale.ops import native
from proscale.postprocess import found
from proscale.postprocess.found import Found, Frames, find_instances, find_panoptic, find_semantic
from proscale.postprocess.resize import resize_mask_logits
from proscale.rle import decode

pytestmark = pytest.mark.skipif(native.STATUS.cpu is None, reason=f"the operator is not compiled: {native.STATUS.cpu_reason}")

IS_THING = [True, False, True, True, False]
FRAMES = {
    "same size": Frames((64, 96), (50, 90), (50, 90)),
    "larger": Frames((64, 96), (50, 90), (333, 517)),
    "much larger": Frames((32, 32), (32, 27), (901, 760)),
    "smaller": Frames((128, 160), (128, 150), (31, 40)),
    "a few pixels": Frames((128, 160), (128, 150), (5, 3)),
    "one row": Frames((64, 2048), (2, 2000), (1, 900)),
    "one column": Frames((256, 32), (250, 3), (130, 1)),
}


def logits(frames: Frames, smooth: bool, queries: int = 23, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class logits, and masks: noise, or blobs with steep edges and large flat parts, as trained networks give them."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, len(IS_THING) + 1, generator=generator) * 3
    h, w = frames.padded[0] // 4, frames.padded[1] // 4
    masks = torch.randn(queries, h, w, generator=generator) * 3
    if smooth:
        y, x = torch.arange(h)[:, None], torch.arange(w)
        centre = torch.rand(queries, 2, 1, 1, generator=generator) * torch.tensor([h, w])[:, None, None]
        distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
        masks = ((min(h, w) * 0.4 - distance) * 3).clamp(-25, 25) + masks * 0.1
    return class_logits, masks


def both(monkeypatch: pytest.MonkeyPatch, find: object, *arguments: object) -> tuple[Found, Found]:
    fast = find(*arguments)  # type: ignore[operator]
    with monkeypatch.context() as patch:
        patch.setattr(found, "compiled", lambda *logits_and_frames: False)
        slow = find(*arguments)  # type: ignore[operator]
    return fast, slow


def agree(fast: Found, slow: Found, tolerance: float = 2e-4) -> None:
    """Equal candidates, and masks that differ at most in pixels that lie on an edge within rounding."""
    pixels = fast.size[0] * fast.size[1]
    got, want = fast.encode(), slow.encode()
    assert [label for label, _, _ in got] == [label for label, _, _ in want]
    for (_, score, mask), (_, twin_score, twin) in zip(got, want, strict=True):
        assert score == pytest.approx(twin_score, abs=1e-4)
        assert (decode(mask.rle) != decode(twin.rle)).sum() <= max(1, tolerance * pixels)
        assert mask.area == decode(mask.rle).sum()


@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "blobs"])
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("mask_threshold", [0.3, 0.5])
def test_panoptic_runs_agree_with_the_reference(name: str, smooth: bool, mask_threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = both(monkeypatch, find_panoptic, *logits(FRAMES[name], smooth), FRAMES[name], IS_THING, 0.3, 0.05, mask_threshold)
    agree(fast, slow)
    if name in ("same size", "larger"):
        assert len(fast.candidates) > 3


@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "blobs"])
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("min_score", [None, 0.4])
def test_instance_runs_agree_with_the_reference(name: str, smooth: bool, min_score: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = both(monkeypatch, find_instances, *logits(FRAMES[name], smooth), FRAMES[name], IS_THING, 100, 0.5, min_score)
    agree(fast, slow)
    if name in ("same size", "larger"):
        assert len(fast.candidates) > 3


@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "blobs"])
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("combine_first", [False, True], ids=["masks first", "scores first"])
def test_semantic_runs_agree_with_the_reference(name: str, smooth: bool, combine_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = both(monkeypatch, find_semantic, *logits(FRAMES[name], smooth), FRAMES[name], combine_first)
    agree(fast, slow)


def test_many_classes_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = FRAMES["larger"]
    masks = logits(frames, True, queries=100)[1]
    class_logits = torch.randn(100, 134, generator=torch.Generator().manual_seed(1)) * 3
    agree(*both(monkeypatch, find_semantic, class_logits, masks, frames, False))
    agree(*both(monkeypatch, find_semantic, class_logits, masks, frames, True))
    agree(*both(monkeypatch, find_panoptic, class_logits, masks, frames, [True] * 133, 0.1, 0.05))


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 130), st.integers(1, 130), st.integers(0, 2**31))
def test_runs_of_any_size_are_the_resized_masks(h: int, w: int, height: int, width: int, seed: int) -> None:
    masks = torch.randn(3, h, w, generator=torch.Generator().manual_seed(seed)) * 4
    frames = Frames((4 * h, 4 * w), (4 * h - h % 4, 4 * w - w % 4), (height, width))
    whole = resize_mask_logits(masks, frames.padded, frames.resized, frames.output)
    runs, sums = torch.ops.proscale.instance_runs(masks, frames.sizes, 0.0)
    inside = torch.stack(
        [torch.from_numpy(decode(m.rle)) for _, _, m in Found(frames.output, runs, range(3), 3, [(0, 0, i) for i in range(3)]).encode()]
    )
    assert (whole[inside != (whole > 0)].abs() < 1e-3).all()
    assert torch.equal(sums[:, 0], inside.flatten(1).sum(1).double())
    assert torch.allclose(sums[:, 1], (whole.double().sigmoid() * inside).flatten(1).sum(1), rtol=1e-4, atol=1e-3)


def test_pictures_without_segments_have_no_runs() -> None:
    class_logits, masks = logits(FRAMES["larger"], True)
    assert find_panoptic(class_logits, masks, FRAMES["larger"], IS_THING, 1.0, 0.8).encode() == []
    assert find_instances(class_logits, masks, FRAMES["larger"], IS_THING, min_score=1.0).encode() == []
    assert find_instances(class_logits, masks - 1000, FRAMES["larger"], IS_THING).encode() == []


def test_runs_do_not_depend_on_the_number_of_threads() -> None:
    class_logits, masks = logits(FRAMES["much larger"], True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(
                [
                    find_panoptic(class_logits, masks, FRAMES["much larger"], IS_THING, 0.3, 0.1).encode(),
                    find_instances(class_logits, masks, FRAMES["much larger"], IS_THING).encode(),
                    find_semantic(class_logits, masks, FRAMES["much larger"], False).encode(),
                ]
            )
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]


def test_inputs_without_a_kernel_use_the_reference() -> None:
    frames = Frames((8, 8), (8, 8), (9, 9))
    assert not found.compiled(torch.zeros(1, 2, 2), frames)
    assert len(find_semantic(torch.randn(1, 3), torch.zeros(1, 2, 2), frames, False).encode()) == 1


def test_wrong_arguments_are_refused() -> None:
    op, masks = torch.ops.proscale.instance_runs, torch.zeros(1, 8, 8)
    for arguments, words in (
        ((masks.double(), [32, 32, 30, 30, 5, 5], 0.0), "of float32"),
        ((masks, [32, 32, 30, 30], 0.0), "6 numbers, not 4"),
        ((masks, [32, 32, 40, 30, 5, 5], 0.0), "not compiled"),
        ((masks, [4, 32, 4, 30, 5, 5], 0.0), "not compiled"),
        ((masks, [32, 32, 30, 30, 2**16, 2**16], 0.0), "31 bits"),
    ):
        with pytest.raises(RuntimeError, match=words):
            op(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [each for each in ("plain", "avx2") if each != native.STATUS.cpu])
def test_every_instruction_set_agrees_with_the_reference(capability: str) -> None:
    """The kernels that this machine would not choose by itself: all of the tests above that compare with the reference form."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "runs_agree_with_the_reference or any_size",
    ]
    run = subprocess.run(command, env=os.environ | {"MS_DEFORM_ATTN_CPU": capability}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]
