"""From a picture's pixels to the result: transformers' own processor, network and post-processing, and the same folder converted here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.model.checkpoints.semantic_peers import peer_eomt, peer_segformer
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.write_folders import write
from proscale.config import PreprocessConfig
from proscale.geometry import resized_size
from proscale.predictor import Predictor
from proscale.results import Segmentation, SegmentationOptions
from proscale.rle import decode

TIE = 1e-4
"""Pixels may be of another class where the peer's two best are nearer than this, nowhere else."""
PICTURES = [
    pytest.param((101, 77), id="upright"),
    *(
        pytest.param(size, id=name, marks=pytest.mark.slow)
        for name, size in (("wide", (53, 131)), ("square", (64, 64)), ("tiny", (33, 35)))
    ),
]


def picture(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Smooth colours with an edge, which resizing changes more than noise would."""
    generator = np.random.default_rng(size[0])
    coarse = torch.from_numpy(generator.normal(128, 70, (1, 3, 6, 7)))
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0).numpy()
    smooth[size[0] // 2 :, size[1] // 3 :] = 255 - smooth[size[0] // 2 :, size[1] // 3 :]
    return smooth.clip(0, 255).astype(np.uint8)


def served(tmp_path: Path, peer: Any, processor: Any) -> Predictor:
    """The peer's folder, converted, written and loaded."""
    peer.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    write(convert(str(tmp_path / "theirs"), Request(labels="numbered")), tmp_path / "ours")
    return Predictor.load(tmp_path / "ours")


def segmented(predictor: Predictor, pixels: NDArray[np.uint8], **options: Any) -> Segmentation:
    (prediction,) = predictor.segment([pixels], [SegmentationOptions(**options)])
    return prediction.results[options["tasks"][0]]


def class_map(segmentation: Segmentation) -> NDArray[np.int64]:
    out = np.full(segmentation.size, -1)
    for segment in segmentation.segments:
        out[decode(segment.segmentation)] = segment.category_id
    return out


def assert_same_classes(ours: NDArray[np.int64], theirs: Any, scores: torch.Tensor) -> None:
    best = scores.topk(2, 0).values
    clear = (best[0] - best[1] > TIE).numpy()
    assert clear.mean() > 0.95
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs.numpy())[clear].all()


SEGFORMERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "squeezed": ({}, {"size": {"height": 96, "width": 128}}),
    "own colours": ({"num_labels": 3}, {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.25, 0.5, 0.4]}),
    "bicubic": ({"depths": [2, 1, 1, 1]}, {"size": {"height": 70, "width": 90}, "resample": 3}),
    "short side": ({"sr_ratios": [4, 2, 2, 1]}, {"size": {"shortest_edge": 80, "longest_edge": 150}}),
    "own size": ({"decoder_hidden_size": 20}, {"do_resize": False}),
    "raw": ({}, {"size": {"height": 64, "width": 96}, "do_normalize": False}),
}


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("name", SEGFORMERS)
def test_segformer_gives_the_map_of_transformers(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    network, pixels = SEGFORMERS[name]
    peer, processor = peer_segformer(**network), SegformerImageProcessorPil(**pixels)
    given = picture(size)
    inputs = processor(given, return_tensors="pt")["pixel_values"]
    with torch.no_grad():  # untrained heads prefer one class everywhere
        peer.decode_head.classifier.bias -= peer(inputs).logits.mean((0, 2, 3))
        said = peer(inputs)
    (theirs,) = processor.post_process_semantic_segmentation(said, target_sizes=[size])
    scores = torch.nn.functional.interpolate(said.logits, size, mode="bilinear", align_corners=False)[0]
    ours = segmented(served(tmp_path, peer, processor), given, tasks=("semantic",))
    assert_same_classes(class_map(ours), theirs, scores)


def diverse(peer: Any, inputs: torch.Tensor) -> Any:
    """What an EoMT says once its queries differ in class and mask; untrained ones hardly do."""
    with torch.no_grad():
        said = peer(inputs)
        peer.class_predictor.bias -= said.class_queries_logits.mean((0, 1))
        peer.mask_head.fc3.weight *= 4 / said.masks_queries_logits.std()
        peer.mask_head.fc3.bias *= 0
        peer.class_predictor.weight *= 4
        peer.class_predictor.bias *= 4
        return peer(inputs)


EOMTS: dict[str, dict[str, Any]] = {
    "DINOv2": {},
    "DINOv3": {"dinov3": True},
    "SwiGLU": {"use_swiglu_ffn": True, "num_register_tokens": 0},
    "masked": {"masked": 1.0},
    "larger": {"image_size": 96, "num_queries": 12},
}


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("name", EOMTS)
def test_eomt_gives_the_panoptic_map_of_transformers(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    peer = peer_eomt(**EOMTS[name])
    side = peer.config.image_size
    processor = EomtImageProcessorPil(size={"shortest_edge": side, "longest_edge": side}, do_pad=True)
    given, limits = picture(size), {"threshold": 0.1, "mask_threshold": 0.5}
    said = diverse(peer, processor(given, return_tensors="pt")["pixel_values"])
    (theirs,) = processor.post_process_panoptic_segmentation(said, [size], overlap_mask_area_threshold=0.02, **limits)
    ours = segmented(served(tmp_path, peer, processor), given, tasks=("panoptic",), overlap_threshold=0.02, **limits)
    found, expected = ours.segments, theirs["segments_info"]
    assert expected
    assert [segment.category_id for segment in found] == [segment["label_id"] for segment in expected]
    for mine, other in zip(found, expected, strict=True):
        assert mine.score == pytest.approx(other["score"], abs=1e-4)
        mask = (theirs["segmentation"] == other["id"]).numpy()
        assert (decode(mine.segmentation) != mask).mean() < 2e-3


@pytest.mark.parametrize("size", [(101, 77), (64, 200), (7, 190)], ids=str)
def test_eomt_in_windows_gives_the_semantic_map_of_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    peer = peer_eomt()
    processor = EomtImageProcessorPil(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    given = picture(size)
    inputs = processor(given, return_tensors="pt")
    said = diverse(peer, inputs["pixel_values"])
    said.patch_offsets = inputs["patch_offsets"]
    (theirs,) = processor.post_process_semantic_segmentation(said, [size], return_segmentation_scores=True)
    predictor = served(tmp_path, peer, processor)
    assert predictor.config.tasks == ("semantic",)
    ours = segmented(predictor, given, tasks=("semantic",))
    assert_same_classes(class_map(ours), theirs.segmentation, theirs.segmentation_scores)


def test_sizes_are_rounded_down_as_in_transformers() -> None:
    generator = np.random.default_rng(0)
    for short, long in ((640, 640), (64, 64), (512, 2048), (800, 1333)):
        config = PreprocessConfig(short, long, rounding="transformers")
        for height, width in generator.integers(5, 1500, (500, 2)).tolist():
            theirs = get_size_with_aspect_ratio((height, width), short, long)
            assert resized_size(height, width, config) == tuple(max(1, side) for side in theirs), (height, width)


def test_the_option_size_overrides_the_files(tmp_path: Path) -> None:
    from proscale.checkpoints.stated_settings import StatedSettings

    peer, processor = peer_segformer(), SegformerImageProcessorPil(size={"height": 64, "width": 64})
    peer.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    def pixels(size: StatedSettings) -> PreprocessConfig:
        return convert(str(tmp_path), Request(labels="numbered", size=size)).config.preprocess

    assert pixels(StatedSettings(size=(96, 32))).size == (96, 32)
    sides = pixels(StatedSettings(short_side=100, long_side=200))
    assert (sides.short_side, sides.long_side, sides.size) == (100, 200, None)
    assert not pixels(StatedSettings(resize=False)).resize
