"""From a checkpoint to a model folder: labels, settings beside the weights, and what is said when something is missing."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.detectron2_names import to_detectron2
from proscale.checkpoints.model_folder import load_folder, save_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.write_folders import write, write_transformers
from proscale.config import (
    MASK2FORMER,
    Mask2FormerEncoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    PreprocessConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    Task,
    TransformerDecoderConfig,
)
from proscale.errors import CheckpointError
from proscale.labels import contiguous_categories, label_table
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import Provenance, SegmentationOptions

SMALL = ModelConfig(
    name="small",
    classes=133,
    backbone=ResNetConfig(8, 16, 4, (1, 1, 1, 1)),
    pixel_decoder=PixelDecoderConfig(ProScaleEncoderConfig((1, 1, 1)), hidden_dim=64, ffn_dim=32),
    transformer_decoder=TransformerDecoderConfig(layers=3, queries=10, ffn_dim=32),
)
MASK2FORMER_SMALL = replace(SMALL, pixel_decoder=replace(MASK2FORMER, encoder=Mask2FormerEncoderConfig(2), hidden_dim=64, ffn_dim=32))


def detectron2_file(folder: Path, config: ModelConfig = SMALL, **extra: torch.Tensor) -> Path:
    state = to_detectron2(SegmentationNetwork(config).state_dict()) | extra
    torch.save({"model": state}, folder / "model_final.pth")
    return folder / "model_final.pth"


def test_coco_panoptic_is_served_with_its_category_ids(tmp_path: Path) -> None:
    write(convert(str(detectron2_file(tmp_path)), Request()), tmp_path / "ours")
    predictor = Predictor.load(tmp_path / "ours")
    assert predictor.categories == label_table("coco_panoptic").categories
    assert predictor.info.name == "PRO-SCALE (1, 1, 1) ResNet COCO panoptic"
    assert predictor.config.preprocess == PreprocessConfig()


@pytest.mark.parametrize(
    ("classes", "table", "sides"),
    [
        (133, "coco_panoptic", (800, 1333)),
        (80, "coco_instance", (800, 1333)),
        (150, "ade20k", (640, 2560)),
        (19, "cityscapes", (1024, 2048)),
        (65, "mapillary_vistas", (2048, 2048)),
    ],
)
def test_a_data_set_is_recognised_by_its_number_of_classes(classes: int, table: str, sides: tuple[int, int], tmp_path: Path) -> None:
    converted = convert(str(detectron2_file(tmp_path, replace(SMALL, classes=classes))), Request())
    assert converted.categories == label_table(table).categories
    assert (converted.config.preprocess.short_side, converted.config.preprocess.long_side) == sides
    assert any(f"there are {classes} classes (if they are others, give --labels)" in note for note in converted.notes)


def test_small_semantic_models_of_ade20k_were_tested_at_512(tmp_path: Path) -> None:
    converted = convert(str(detectron2_file(tmp_path, replace(SMALL, classes=150))), Request(task="semantic"))
    assert (converted.config.preprocess.short_side, converted.config.preprocess.long_side) == (512, 2048)
    assert "trained for: semantic: scores are combined first, then resized" in converted.notes


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_semantic_models_combine_their_scores_first(task: Task, tmp_path: Path) -> None:
    size = replace(SMALL.preprocess, short_side=64, long_side=128)
    converted = convert(str(detectron2_file(tmp_path)), Request(task=task))
    write(replace(converted, config=replace(converted.config, preprocess=size)), tmp_path / "ours")
    predictor = Predictor.load(tmp_path / "ours")
    assert predictor.config.postprocess.combine_first is (task == "semantic")
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    result = predictor.segment([picture], [SegmentationOptions(tasks=("semantic",))])[0].results["semantic"]
    assert sum(segment.area for segment in result.segments) == 40 * 60


def test_unknown_classes_need_labels(tmp_path: Path) -> None:
    source = str(detectron2_file(tmp_path, replace(SMALL, classes=3)))
    with pytest.raises(CheckpointError, match=r"nothing says what the 3 classes are. Give --labels with one of ade20k"):
        convert(source, Request())
    (tmp_path / "names.txt").write_text("cell\nnucleus\n\nbackground\n")
    (tmp_path / "labels.json").write_text(json.dumps([{"id": 9, "name": "sky", "isthing": False}] * 2))
    assert [c.name for c in convert(source, Request(labels=str(tmp_path / "names.txt"))).categories] == ["cell", "nucleus", "background"]
    assert convert(source, Request(labels="numbered")).categories == contiguous_categories(3)
    with pytest.raises(CheckpointError, match="has 2 categories, the weights have 3 classes"):
        convert(source, Request(labels=str(tmp_path / "labels.json")))
    with pytest.raises(CheckpointError, match="has 19 categories, the weights have 3 classes"):
        convert(source, Request(labels="cityscapes"))
    with pytest.raises(CheckpointError, match="is neither a file nor one of"):
        convert(source, Request(labels="imagenet"))


def test_configuration_beside_the_weights_is_used(tmp_path: Path) -> None:
    source = detectron2_file(tmp_path)
    yaml = "MODEL:\n  SEM_SEG_HEAD: {PIXEL_DECODER_NAME: PROSCALE}\n  PROSCALE: {EXCITE_TEMP: 0.7, RESIDUAL: true}\n"
    (tmp_path / "model_final.yaml").write_text(yaml + "INPUT: {MIN_SIZE_TEST: 640}\n")
    encoder = convert(str(source), Request()).config.pixel_decoder.encoder
    assert encoder == ProScaleEncoderConfig((1, 1, 1), "linear", 0.7, residual=True)
    # The user's word counts more than the file's.
    asked = convert(str(source), Request(temperature=0.2, residual=False)).config
    assert asked.pixel_decoder.encoder == ProScaleEncoderConfig((1, 1, 1), "linear", 0.2, residual=False)
    assert asked.preprocess.short_side == 640


def test_configuration_of_another_model_is_refused(tmp_path: Path) -> None:
    source = detectron2_file(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("MODEL:\n  MASK_FORMER: {NUM_OBJECT_QUERIES: 100}\n  SEM_SEG_HEAD: {NUM_CLASSES: 19}\n")
    with pytest.raises(CheckpointError, match=r"classes is 19 there, 133 in the weights; transformer_decoder.queries is 100 there, 10"):
        convert(str(source), Request(config=other))


def test_mean_and_deviation_among_the_weights(tmp_path: Path) -> None:
    statistics = {"pixel_mean": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), "pixel_std": torch.tensor([4.0, 5.0, 6.5]).view(3, 1, 1)}
    converted = convert(str(detectron2_file(tmp_path, **statistics)), Request())
    assert (converted.config.preprocess.mean, converted.config.preprocess.std) == ((1, 2, 3), (4, 5, 6.5))


def test_constants_are_dropped_and_unknown_names_listed(tmp_path: Path) -> None:
    constants = {"criterion.empty_weight": torch.ones(134), "backbone.stem.conv1.norm.num_batches_tracked": torch.tensor(3)}
    convert(str(detectron2_file(tmp_path, **constants)), Request())
    strangers = {"sem_seg_head.predictor.lora_A": torch.ones(1), "teacher.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"2 names in the checkpoint are not known: sem_seg_head.predictor.lora_A, teacher.weight"):
        convert(str(detectron2_file(tmp_path, **strangers)), Request())


def test_a_backbone_alone_is_refused(tmp_path: Path) -> None:
    save_file({"layers.0.weight": torch.ones(1)}, tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointError, match="A whole network is needed, not a backbone alone"):
        convert(str(tmp_path / "swin.safetensors"), Request())


def test_source_is_kept_through_another_conversion(tmp_path: Path) -> None:
    source = detectron2_file(tmp_path)
    write(convert(str(source), Request()), tmp_path / "first")
    write(convert(str(tmp_path / "first"), Request(name="mine", labels="numbered")), tmp_path / "second", torch.float16)
    first, second = load_provenance(tmp_path / "first"), load_provenance(tmp_path / "second")
    assert first is not None
    assert first == second
    assert first.name == "model_final.pth"
    config, categories, state = load_folder(tmp_path / "second")
    assert config.name == "mine"
    assert categories == contiguous_categories(133)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_a_model_trained_here_has_no_source_but_a_hash(tmp_path: Path) -> None:
    save_folder(tmp_path / "trained", SMALL, label_table("coco_panoptic").categories, SegmentationNetwork(SMALL).state_dict())
    assert load_provenance(tmp_path / "trained") is None
    assert convert(str(tmp_path / "trained"), Request()).provenance.layout == "proscale"
    (tmp_path / "trained" / "source.json").write_text('{"name": 1}')
    with pytest.raises(CheckpointError, match=r"is not \{name, sha256, layout, changes\}"):
        load_provenance(tmp_path / "trained")


def test_writing_replaces_the_folder_whole(tmp_path: Path) -> None:
    converted = convert(str(detectron2_file(tmp_path)), Request())
    out = tmp_path / "out"
    write(converted, out)
    served = load_folder(out)[2]["pixel_decoder.mask_projection.bias"]  # mapped, as a running server has it
    before = served.clone()
    changed = dict(converted.state) | {"pixel_decoder.mask_projection.bias": before + 1}
    write(replace(converted, state=changed), out)
    assert torch.equal(served, before)
    assert torch.equal(load_folder(out)[2]["pixel_decoder.mask_projection.bias"], before + 1)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "labels.json", "model.safetensors", "source.json"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in out.iterdir())
    with pytest.raises(CheckpointError):
        write(replace(converted, categories=()), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_final.pth", "out"]
    assert load_provenance(out) == Provenance(*vars(converted.provenance).values())


def test_proscale_cannot_be_written_for_transformers(tmp_path: Path) -> None:
    converted = convert(str(detectron2_file(tmp_path)), Request())
    with pytest.raises(CheckpointError, match="its encoder is PRO-SCALE's; its pixel embedding is a max-pool"):
        write_transformers(converted, tmp_path / "out")
    assert not (tmp_path / "out").exists()
