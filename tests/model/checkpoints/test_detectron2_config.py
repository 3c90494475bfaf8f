"""detectron2's YAML: what it says, what it must not say, and that nothing in it is run."""

from pathlib import Path

import pytest

from proscale.checkpoints.detectron2_config import read_detectron2_config
from proscale.errors import CheckpointError

BASE = """
MODEL:
  BACKBONE: {NAME: build_resnet_backbone}
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {STRIDE_IN_1X1: False}
  SEM_SEG_HEAD: {NUM_CLASSES: 150, TRANSFORMER_ENC_LAYERS: 6, PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder}
  MASK_FORMER:
    HIDDEN_DIM: 256
    NHEADS: 8
    DEC_LAYERS: 10
    NUM_OBJECT_QUERIES: 100
    TEST: {SEMANTIC_ON: True, INSTANCE_ON: False, PANOPTIC_ON: False, OBJECT_MASK_THRESHOLD: 0.7, OVERLAP_THRESHOLD: 0.6}
DATASETS:
  TRAIN: ("ade20k_sem_seg_train",)
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]
  MIN_SIZE_TEST: 512
  MAX_SIZE_TEST: 2048
"""
SWIN = """
_BASE_: base.yaml
MODEL:
  BACKBONE: {NAME: D2SwinTransformer}
  SWIN: {EMBED_DIM: 96, DEPTHS: [2, 2, 6, 2], NUM_HEADS: [3, 6, 12, 24], WINDOW_SIZE: 7, APE: False}
  MASK_FORMER: {NUM_OBJECT_QUERIES: 200}
"""
PROSCALE = """
_BASE_: missing_base.yaml
MODEL:
  SEM_SEG_HEAD: {PIXEL_DECODER_NAME: PROSCALE}
  PROSCALE: {RESIDUAL: True, PROSCALE_NUM_LAYERS: [1, 2, 3], IS_EXCITE_CONV: False, MASK_OUTPUT_OPS: maxpool, EXCITE_TEMP: 0.5}
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_bases_are_merged(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    hints = read_detectron2_config(write(tmp_path, "swin.yaml", SWIN))
    assert (hints.heads, hints.task, hints.dataset, hints.short_side, hints.long_side) == (8, "semantic", "ade20k", 512, 2048)
    assert (hints.threshold, hints.overlap_threshold) == (0.7, 0.6)
    assert hints.mean == (123.675, 116.28, 103.53)
    assert hints.combine_first is True
    claims = dict(hints.claims)
    assert claims["backbone.depths"] == (2, 2, 6, 2)
    assert claims["transformer_decoder.queries"] == 200
    assert claims["transformer_decoder.layers"] == 9
    assert claims["pixel_decoder.encoder.layers"] == 6


def test_proscale_settings_and_a_base_that_is_not_there(tmp_path: Path) -> None:
    hints = read_detectron2_config(write(tmp_path, "p.yaml", PROSCALE))
    assert (hints.temperature, hints.residual, hints.task, hints.short_side) == (0.5, True, None, None)
    assert dict(hints.claims)["pixel_decoder.encoder.layers"] == (1, 2, 3)


@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.system ['touch {ran}']",
        "!!python/object/new:os.system ['touch {ran}']",
        "!!python/name:os.system",
        "!!python/module:antigravity",
        "!custom [1]",
    ],
)
def test_code_in_a_yaml_is_never_run(payload: str, tmp_path: Path) -> None:
    text = BASE + f"  EXTRA: {payload.format(ran=tmp_path / 'ran')}\n"
    assert read_detectron2_config(write(tmp_path, "x.yaml", text)).short_side == 512
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {RESNETS: {STRIDE_IN_1X1: True}}", "STRIDE_IN_1X1 is True; the stride must be in the 3x3 convolution"),
        ("MODEL: {SWIN: {APE: True}}", "absolute position"),
        ("INPUT: {FORMAT: BGR}", "fed as RGB"),
        ("MODEL: {MASK_FORMER: {NHEADS: many}}", "NHEADS should be a whole number above 0, not 'many'"),
        ("MODEL: {PIXEL_MEAN: [1, 2]}", r"PIXEL_MEAN should be three numbers"),
        ("- 1", "holds no settings"),
        ("a: [", "cannot be read as YAML"),
        ("_BASE_: x.yaml", "more than 8 configurations build on each other"),
    ],
)
def test_unsupported_settings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_detectron2_config(write(tmp_path, "x.yaml", text))
