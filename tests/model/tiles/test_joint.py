"""Windows that are apart in the backbone alone: their features are put together right, and one window is the plain picture."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network
from tests.model.heads.test_folding import CONFIGS
from torch import Tensor
from torch.nn import functional as F

from proscale.backbones import build_backbone
from proscale.config import PreprocessConfig, SwinConfig
from proscale.errors import CheckpointError, ParameterError
from proscale.flops import count_flops
from proscale.joint_features import FeatureCache, joint_features
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import JointWindows, SegmentationOptions
from proscale.tiles import joint as joint_module
from proscale.tiles import parse_tiling, plan_joint

OPTIONS = SegmentationOptions(("panoptic", "semantic"))


def local(images: Tensor) -> list[Tensor]:
    """Levels that depend on their own pixels alone, so that windows change nothing."""
    return [F.avg_pool2d(images, stride) for stride in (4, 8, 16, 32)]


def local_channels_last(images: Tensor) -> list[Tensor]:
    return [level.contiguous(memory_format=torch.channels_last) for level in local(images)]


def planned(height: int, width: int, tile: str) -> JointWindows | None:
    return plan_joint(SMALL_CONFIG, parse_tiling(tile), height, width, ("panoptic",)).joint


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 400), st.integers(60, 400), st.integers(64, 150), st.integers(0, 60))
def test_features_of_windows_are_put_where_they_belong(height: int, width: int, side: int, overlap: int) -> None:
    plan = plan_joint(SMALL_CONFIG, parse_tiling(f"joint,{side},{min(overlap, side // 2)}"), height, width, ("panoptic",))
    if plan.joint is None:
        assert max(height, width) <= side
        return
    images = torch.randn(2, 3, *plan.padded)
    for backbone in (local, local_channels_last):
        for found, expected in zip(joint_features(backbone, images, plan.joint), backbone(images), strict=True):
            assert torch.equal(found, expected)
            assert found.stride() == expected.stride()
    for axis, starts in enumerate(plan.joint.starts):
        assert len(starts) == 1 or max(b - a for a, b in pairwise(starts)) <= plan.joint.size[axis]


@pytest.mark.parametrize("backbone", [SMALL_CONFIG.backbone, SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=4)])
def test_far_from_seams_features_are_those_of_the_whole(backbone) -> None:
    network = build_backbone(backbone).eval()
    images = torch.randn(1, 3, 64, 512)
    overlapping = JointWindows((2, 10), ((0,), (0, 6)), ((0, 2), (0, 8, 16)))
    side_by_side = JointWindows((2, 8), ((0,), (0, 8)), ((0, 2), (0, 8, 16)))
    with torch.inference_mode():
        apart, cut, whole = (
            joint_features(network, images, overlapping),
            joint_features(network, images, side_by_side),
            network(images),
        )
    for one, without_overlap, other in zip(apart, cut, whole, strict=True):
        cell = one.shape[3] // 16
        assert torch.allclose(one[..., : 2 * cell], other[..., : 2 * cell], atol=1e-4)
        assert not torch.allclose(without_overlap, other, atol=1e-4)


def test_one_window_is_the_plain_picture_bit_for_bit(small_predictor: Predictor, picture: np.ndarray) -> None:
    network = small_predictor.network
    assert isinstance(network, SegmentationNetwork)
    images = torch.randn(1, 3, 96, 128)
    one = JointWindows((3, 4), ((0,), (0,)), ((0, 3), (0, 4)))
    with torch.inference_mode():
        plain = network.predict(images)
        joint = network.predict(images, lambda batch: joint_features(network.backbone, batch, one))
    assert torch.equal(plain.mask_logits, joint.mask_logits)
    assert torch.equal(plain.class_logits, joint.class_logits)
    (expected,) = small_predictor.segment([picture], [OPTIONS])
    found = small_predictor.segment_joint(picture, parse_tiling("joint,80"), OPTIONS)
    assert found.results == expected.results
    assert found.plan == expected.plan


def test_a_large_picture_has_segments_of_its_own_size(small_predictor: Predictor, picture: np.ndarray) -> None:
    large = picture.repeat(3, 0).repeat(4, 1)
    found = small_predictor.segment_joint(large, parse_tiling("joint,96,32"), OPTIONS)
    tiles, windows = found.plan.tiles, found.plan.joint
    assert tiles is not None
    assert windows is not None
    assert (tiles.joint, tiles.windows, tiles.size, tiles.scale) == (True, 15, (96, 96), 1.0)
    assert (found.plan.resized, found.plan.padded) == ((180, 320), (192, 320))
    assert sum(segment.area for segment in found.results["semantic"].segments) == 180 * 320
    backbone = 15 * count_flops(SMALL_CONFIG, (96, 96)).backbone - count_flops(SMALL_CONFIG, (192, 320)).backbone
    assert found.plan.flops == count_flops(SMALL_CONFIG, (192, 320), (180, 320), OPTIONS.tasks[:2]).total + backbone
    alone, with_mate = small_predictor.resize(large, found.plan), small_predictor.resize(large[:100, :100])
    both = small_predictor.segment_resized(
        [alone, with_mate], [OPTIONS] * 2, [found.plan, small_predictor.plan(100, 100, OPTIONS.tasks)]
    )  # not one batch, whatever their sizes
    assert both[0].results == found.results


def test_what_cannot_be_joint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiling = parse_tiling("joint,64")
    with pytest.raises(ParameterError, match="joint is for PRO-SCALE and Mask2Former"):
        plan_joint(CONFIGS["segformer linear"], tiling, 500, 500, ("semantic",))
    squeezed = replace(SMALL_CONFIG, preprocess=PreprocessConfig(size=(96, 96), align="stretch"))
    with pytest.raises(ParameterError, match="pads pictures to multiples of 32"):
        plan_joint(squeezed, tiling, 500, 500, ("panoptic",))
    monkeypatch.setattr(joint_module, "MOST_PIXELS", 500 * 500)
    with pytest.raises(ParameterError, match="take larger windows"):
        plan_joint(SMALL_CONFIG, tiling, 500, 500, ("panoptic",))


def test_equal_content_is_computed_once_and_bytes_are_bounded() -> None:
    seen: list[int] = []

    def counted(images: Tensor) -> list[Tensor]:
        seen.append(images.shape[0])
        return local(images)

    one, two = torch.randn(2, 1, 3, 64, 64)
    size = sum(level.nbytes for level in local(one))
    cache = FeatureCache(counted, 2 * size)
    for found, expected in zip(cache(torch.cat([one, two, one])), local(torch.cat([one, two, one])), strict=True):
        assert torch.equal(found, expected)
    assert (len(seen), cache.hits, cache.misses, cache.nbytes) == (2, 1, 2, 2 * size)
    cache(torch.randn(1, 3, 64, 64))  # `two` goes, which was used least recently
    assert cache.nbytes == 2 * size
    cache(one)
    assert (cache.hits, cache.misses) == (2, 3)
    cache(two)
    assert (cache.hits, cache.misses) == (2, 4)
    cache(torch.randn(1, 3, 256, 256))  # larger than all there is room for
    assert cache.nbytes == 2 * size


def test_a_tile_that_comes_again_is_not_computed_again_and_nothing_changes(picture: np.ndarray) -> None:
    plain, caching = (Predictor(small_network(), SMALL_CATEGORIES, feature_cache_bytes=size) for size in (0, 1 << 24))
    assert plain.feature_cache is None
    cache = caching.feature_cache
    assert cache is not None
    for _ in range(2):
        for expected, found in zip(*(each.segment([picture], [OPTIONS]) for each in (plain, caching)), strict=True):
            assert expected.results == found.results
    assert (cache.hits, cache.misses) == (1, 1)
    repeated = np.tile(picture.repeat(2, 0).repeat(2, 1)[:96, :96], (1, 4, 1))  # four equal windows
    joint = [each.segment_joint(repeated, parse_tiling("joint,96,0"), OPTIONS) for each in (plain, caching)]
    assert joint[0].results == joint[1].results
    assert (cache.hits, cache.misses) == (4, 2)
    with pytest.raises(CheckpointError, match="PRO-SCALE and Mask2Former alone"):
        Predictor(small_network(), SMALL_CATEGORIES, feature_cache_bytes=1, compile_for=[(96, 96)])
