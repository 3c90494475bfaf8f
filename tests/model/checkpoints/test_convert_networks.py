"""SegFormer, SETR, SegViT and EoMT through `proscale convert`: every layout, what lies beside, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tests.model.checkpoints.semantic_peers import peer_eomt, peer_segformer
from tests.parity.semantic_vectors import semantic_config
from torch import Tensor
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from proscale.checkpoints.convert import Converted, Request, convert
from proscale.checkpoints.model_folder import load_folder
from proscale.checkpoints.write_folders import write, write_transformers
from proscale.cli import main
from proscale.config import EomtModelConfig, SegvitHeadConfig, SemanticModelConfig, SetrHeadConfig, SlideConfig
from proscale.errors import CheckpointError

VECTORS = Path(__file__).parents[2] / "parity" / "vectors" / "semantic"
NUMBERED = Request(labels="numbered")


def pretrained(tmp_path: Path, peer: Any, processor: Any = None) -> Path:
    folder = tmp_path / "peer"
    peer.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def there_and_back(converted: Converted, tmp_path: Path) -> dict[str, Tensor]:
    """Through our folder to transformers', and to our folder again; the peers' tensors on the way."""
    write(converted, tmp_path / "ours")
    ours = convert(str(tmp_path / "ours"), Request())
    write_transformers(ours, tmp_path / "theirs")
    again = convert(str(tmp_path / "theirs"), NUMBERED)
    assert again.config.__dict__ | {"name": ""} == converted.config.__dict__ | {"name": ""}
    assert again.state.keys() == converted.state.keys()
    assert all(torch.equal(again.state[name], tensor) for name, tensor in converted.state.items())
    return load_file(tmp_path / "theirs" / "model.safetensors")


def assert_same(written: dict[str, Tensor], peer: Any) -> None:
    state = peer.state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())


def test_segformer_of_transformers_is_converted(tmp_path: Path) -> None:
    peer = peer_segformer()
    folder = pretrained(tmp_path, peer, SegformerImageProcessor(size={"height": 96, "width": 128}, image_mean=[0.5] * 3))
    converted = convert(str(folder), NUMBERED)
    assert isinstance(converted.config, SemanticModelConfig)
    assert converted.config.preprocess.size == (96, 128)
    assert converted.config.preprocess.mean == (127.5,) * 3
    assert_same(there_and_back(converted, tmp_path), peer)
    loaded = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "theirs").eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, peer(images).logits)


@pytest.mark.parametrize("name", ["segformer_hf_small", "segformer_mmseg"])
def test_other_layouts_of_segformer_are_converted(tmp_path: Path, name: str) -> None:
    case = json.loads((VECTORS / f"{name}.json").read_text())
    converted = convert(str(VECTORS / f"{name}.weights.safetensors"), NUMBERED)
    expected = semantic_config(case, name)
    assert isinstance(converted.config, SemanticModelConfig)
    assert (converted.config.backbone, converted.config.head) == (expected.backbone, expected.head)
    assert converted.config.preprocess.align == ("none" if name == "segformer_mmseg" else "stretch")
    if name == "segformer_mmseg":
        with pytest.raises(CheckpointError, match="its head is mmsegmentation's"):
            write_transformers(converted, tmp_path / "out")


def nvidia_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names as NVIDIA's files have them."""
    out = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "segformer":
            stage, rest = int(parts[2]) + 1, ".".join(parts[3:])
            rest = rest.replace("patch_embeddings.proj", f"patch_embed{stage}.proj").replace(
                "patch_embeddings.layer_norm", f"patch_embed{stage}.norm"
            )
            rest = rest.replace("blocks.", f"block{stage}.").replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
            rest = (
                rest.replace("attention.q_proj", "attn.q").replace("attention.o_proj", "attn.proj").replace("attention.k_proj", "attn.kv")
            )
            rest = rest.replace("attention.sequence_reduction.sequence_reduction", "attn.sr")
            rest = rest.replace("attention.sequence_reduction.layer_norm", "attn.norm")
            if rest.startswith("layer_norm"):
                rest = rest.replace("layer_norm", f"norm{stage}")
            if "v_proj" in rest:
                continue
            if ".kv." in rest:
                tensor = torch.cat([tensor, state[name.replace("k_proj", "v_proj")]])
            out["backbone." + rest] = tensor
        else:
            rest = name.replace("batch_norm", "linear_fuse.bn").replace("classifier", "linear_pred")
            rest = rest.replace("linear_fuse.weight", "linear_fuse.conv.weight")
            if "linear_projections" in rest:
                rest = f"decode_head.linear_c{int(parts[2]) + 1}.{'.'.join(parts[3:])}"
            out[rest] = tensor
    return out | {"decode_head.conv_seg.weight": torch.zeros(5, 2), "decode_head.conv_seg.bias": torch.zeros(5)}


def test_segformer_of_nvidia_is_converted(tmp_path: Path) -> None:
    peer = peer_segformer(num_attention_heads=[1, 2, 1, 8], hidden_sizes=[8, 16, 25, 32])
    torch.save({"state_dict": nvidia_names(peer.state_dict()), "meta": {"CLASSES": ("a", "b", "c", "d", "e")}}, tmp_path / "b0.pth")
    (tmp_path / "b0.py").write_text("norm_cfg = dict(type='BN')\nmodel = dict(backbone=dict(num_heads=[1, 2, 1, 8]))\n")
    converted = convert(str(tmp_path / "b0.pth"), Request())
    assert [category.name for category in converted.categories] == ["a", "b", "c", "d", "e"]
    assert isinstance(converted.config, SemanticModelConfig)
    assert converted.config.backbone.norm_eps == 1e-6
    direct = convert(str(pretrained(tmp_path, peer)), NUMBERED)
    assert all(torch.equal(converted.state[name], tensor) for name, tensor in direct.state.items())
    with pytest.raises(CheckpointError, match="epsilons"):
        write_transformers(converted, tmp_path / "out")


def mmseg_config_text(case: dict[str, Any]) -> str:
    heads, taps = case["heads"], case["taps"]
    lines = [
        "import os",
        "secret = os.environ",
        "crop_size = (64, 64)",
        f"data_preprocessor = dict(type='SegDataPreProcessor', mean={case['mean']}, std={case['std']}, bgr_to_rgb=True)",
        "model = dict(type='EncoderDecoder', data_preprocessor=data_preprocessor,",
        f"    backbone=dict(type='VisionTransformer', img_size={tuple(case['grid'])}, num_heads={heads}, out_indices={tuple(taps)},",
        f"        with_cls_token={case['cls']}, interpolate_mode={case['mode']!r}),",
        f"    test_cfg=dict(mode='slide', crop_size=crop_size, stride={tuple(case['stride'])}))"
        if "stride" in case
        else "    test_cfg=dict(mode='whole'))",
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(300, 80), keep_ratio=True)]",
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["setr_naive", "setr_mla_slide", "segvit_slide"])
def test_setr_and_segvit_are_converted(tmp_path: Path, name: str) -> None:
    case = json.loads((VECTORS / f"{name}.json").read_text())
    weights = load_file(VECTORS / f"{name}.weights.safetensors")
    save_file(weights | {"auxiliary_head.0.conv_seg.bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.py").write_text(mmseg_config_text(case))
    converted = convert(str(tmp_path / "model.safetensors"), NUMBERED)
    expected = semantic_config(case, name)
    assert isinstance(converted.config, SemanticModelConfig)
    assert converted.config.backbone == expected.backbone
    assert (converted.config.slide, converted.config.postprocess) == (expected.slide, expected.postprocess)
    assert converted.config.preprocess.mean == expected.preprocess.mean
    assert (converted.config.preprocess.short_side, converted.config.preprocess.long_side) == (80, 300)
    if isinstance(expected.head, SegvitHeadConfig):
        assert converted.config.head == expected.head
    write(converted, tmp_path / "ours")
    assert load_folder(tmp_path / "ours")[0] == converted.config


def test_setr_pup_is_distinguished_from_naive() -> None:
    from proscale.checkpoints.recognise_networks import recognise_setr
    from proscale.heads.setr import SetrHead

    for variant in ("naive", "pup", "mla"):
        head = SetrHeadConfig(variant, 8, 4 if variant == "mla" else 128)
        state = {f"head.{name}": tensor for name, tensor in SetrHead(head, 12, 3, 5).state_dict().items()}
        assert recognise_setr(state) == (head, 5)


class HistoryBuffer:
    """As mmengine pickles it: an object of a class that is not here."""

    def __init__(self) -> None:
        self.values = [1.0]


def test_files_of_mmengine_are_read_without_running_them(tmp_path: Path) -> None:
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = __name__, "HistoryBuffer"
    weights = load_file(VECTORS / "segformer_mmseg.weights.safetensors")
    meta = {"dataset_meta": {"classes": tuple("abcdefghi")}, "cfg": "model = dict(test_cfg=dict(mode='whole'))"}
    torch.save({"meta": meta, "state_dict": weights, "message_hub": {"loss": HistoryBuffer()}}, tmp_path / "iter_1.pth")
    converted = convert(str(tmp_path / "iter_1.pth"), Request())
    assert [category.name for category in converted.categories] == list("abcdefghi")
    assert "inside the weights' file" in converted.notes[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"dinov3": True}, {"use_swiglu_ffn": True}, {"masked": 1.0, "num_register_tokens": 0}, {"num_upscale_blocks": 1, "num_blocks": 4}],
    ids=["dinov2", "dinov3", "swiglu", "masked", "one step"],
)
def test_eomt_of_transformers_is_converted(tmp_path: Path, changes: dict[str, Any]) -> None:
    dinov3, peer = changes.get("dinov3", False), peer_eomt(**changes)
    size = {"shortest_edge": 64, "longest_edge": 64}
    converted = convert(str(pretrained(tmp_path, peer, EomtImageProcessor(size=size, do_pad=True))), NUMBERED)
    assert isinstance(converted.config, EomtModelConfig)
    assert converted.config.preprocess.pad_to == (64, 64)
    assert converted.config.tasks == ("panoptic", "instance", "semantic")
    assert_same(there_and_back(converted, tmp_path), peer)
    cls = EomtDinov3ForUniversalSegmentation if dinov3 else EomtForUniversalSegmentation
    loaded = cls.from_pretrained(tmp_path / "theirs").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images).masks_queries_logits, peer(images).masks_queries_logits)


def test_eomt_for_semantic_segmentation_uses_windows(tmp_path: Path) -> None:
    processor = EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    converted = convert(str(pretrained(tmp_path, peer_eomt(), processor)), NUMBERED)
    assert isinstance(converted.config, EomtModelConfig)
    assert (converted.config.slide, converted.config.tasks) == (SlideConfig((64, 64)), ("semantic",))
    there_and_back(converted, tmp_path)


AUTHORS = {
    "query.weight": "network.q.weight",
    "layernorm.": "network.encoder.backbone.norm.",
    "class_predictor.": "network.class_head.",
    "mask_head.fc1": "network.mask_head.0",
    "mask_head.fc2": "network.mask_head.2",
    "mask_head.fc3": "network.mask_head.4",
    "layernorm2d": "norm",
    "upscale_block.block.": "network.upscale.",
    "attn_mask_probs": "network.attn_mask_probs",
}


def authors_names(state: dict[str, Tensor], blocks: dict[str, str]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in state.items():
        for theirs, authors in (AUTHORS | blocks).items():
            name = name.replace(theirs, authors)
        out[name] = tensor
    return out | {"network.encoder.pixel_mean": torch.zeros(1, 3, 1, 1), "network.encoder.pixel_std": torch.ones(1, 3, 1, 1)}


def test_eomt_of_its_authors_is_converted(tmp_path: Path) -> None:
    peer = peer_eomt(hidden_size=128, num_attention_heads=2)
    direct = convert(str(pretrained(tmp_path, peer)), NUMBERED)
    blocks = {
        "embeddings.cls_token": "network.encoder.backbone.cls_token",
        "embeddings.register_tokens": "network.encoder.backbone.reg_token",
        "embeddings.position_embeddings.weight": "network.encoder.backbone.pos_embed",
        "embeddings.patch_embeddings.projection": "network.encoder.backbone.patch_embed.proj",
        "attention.out_proj": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
    }
    state = {
        name.replace("layers.", "network.encoder.backbone.blocks."): tensor
        for name, tensor in authors_names(peer.state_dict(), blocks).items()
    }
    for i in range(4):
        prefix = f"network.encoder.backbone.blocks.{i}."
        for leaf in ("weight", "bias"):
            state[f"{prefix}attn.qkv.{leaf}"] = torch.cat([state.pop(f"{prefix}attention.{part}_proj.{leaf}") for part in "qkv"])
    state["network.encoder.backbone.pos_embed"] = state["network.encoder.backbone.pos_embed"][None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    converted = convert(str(tmp_path / "pytorch_model.bin"), NUMBERED)
    assert converted.config.backbone == direct.config.backbone
    assert all(torch.equal(converted.state[name], tensor) for name, tensor in direct.state.items())
    assert (converted.config.preprocess.rounding, direct.config.preprocess.rounding) == ("nearest", "nearest")
    there_and_back(converted, tmp_path)


def test_dinov3_deltas_are_added_to_their_base(tmp_path: Path) -> None:
    peer = peer_eomt(True, hidden_size=64, num_attention_heads=1, intermediate_size=80)
    base = DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=64, num_attention_heads=1, intermediate_size=80, num_hidden_layers=4, num_register_tokens=3, patch_size=16
        )
    )
    base.save_pretrained(tmp_path / "dinov3")
    own = load_file(tmp_path / "dinov3" / "model.safetensors")
    renamed = {name.removeprefix("model.").replace("layer.", "layers.", 1): tensor for name, tensor in own.items()}
    renamed = {f"layernorm.{name.split('.')[1]}" if name.startswith("norm.") else name: tensor for name, tensor in renamed.items()}
    deltas = {name: tensor - renamed[name] if name in renamed else tensor for name, tensor in peer.state_dict().items()}
    deltas = {re.sub(r"^embeddings\.", "network.encoder.backbone.patch_embed.", name): tensor for name, tensor in deltas.items()}
    state = {name.replace("layers.", "network.encoder.backbone.blocks."): tensor for name, tensor in authors_names(deltas, {}).items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    source = str(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="--base"):
        convert(source, NUMBERED)
    converted = convert(source, Request(labels="numbered", base=str(tmp_path / "dinov3")))
    direct = convert(str(pretrained(tmp_path, peer)), NUMBERED)
    for name, tensor in direct.state.items():
        torch.testing.assert_close(converted.state[name], tensor, rtol=0, atol=1e-6)
    whole = convert(source, Request(labels="numbered", base="none"))
    assert torch.equal(whole.state["queries"], direct.state["queries"])
    other = {name: tensor[:1] for name, tensor in own.items()}
    save_file({name: tensor.contiguous() for name, tensor in other.items()}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not the DINOv3 that these deltas were made from"):
        convert(source, Request(labels="numbered", base=str(tmp_path / "other.safetensors")))


def changed(name: str, tmp_path: Path, change: Any) -> str:
    weights = load_file(VECTORS / f"{name}.weights.safetensors")
    change(weights)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / "changed.safetensors")
    return str(tmp_path / "changed.safetensors")


def one_class(weights: dict[str, Tensor]) -> None:
    for leaf in ("weight", "bias"):
        weights[f"decode_head.classifier.{leaf}"] = weights[f"decode_head.classifier.{leaf}"][:1]


def no_head(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("decode_head.")]:
        del weights[name]


def other_patch(weights: dict[str, Tensor]) -> None:
    weights["backbone.patch_embed.projection.weight"] = torch.zeros(64, 3, 8, 8)


def lost_block(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("backbone.layers.1.")]:
        del weights[name]


def authors_setr(weights: dict[str, Tensor]) -> None:
    weights["decode_head.syncbn_fc_0.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("segformer_hf_small", one_class, "one class and a sigmoid"),
        ("segformer_hf_small", no_head, "decode_head is missing"),
        ("setr_naive", other_patch, "patches of 8x8 pixels; 16x16 is supported"),
        ("setr_naive", authors_setr, "SETR in its authors' layout"),
        ("setr_naive", lost_block, "backbone.blocks.1"),
        ("segvit_slide", lambda weights: None, "nothing says how many attention heads"),
    ],
    ids=["sigmoid", "no head", "patch", "authors' SETR", "lost block", "no heads"],
)
def test_similar_but_unsupported_networks_are_refused(tmp_path: Path, name: str, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(changed(name, tmp_path, change), NUMBERED)


def test_segvit_needs_its_colours(tmp_path: Path) -> None:
    case = json.loads((VECTORS / "segvit_slide.json").read_text())
    text = "\n".join(line for line in mmseg_config_text(case).splitlines() if "mean" not in line)
    (tmp_path / "c.py").write_text(text.replace("data_preprocessor=data_preprocessor,", ""))
    weights = str(VECTORS / "segvit_slide.weights.safetensors")
    with pytest.raises(CheckpointError, match="mean and deviation"):
        convert(weights, Request(config=tmp_path / "c.py", labels="numbered"))


def test_labels_that_do_not_fit_and_a_base_without_deltas_are_refused(tmp_path: Path) -> None:
    folder = str(pretrained(tmp_path, peer_segformer()))
    with pytest.raises(CheckpointError, match="has 150 categories, the weights have 5 classes"):
        convert(folder, Request(labels="ade20k"))
    with pytest.raises(CheckpointError, match="--base goes with"):
        convert(folder, Request(labels="numbered", base="none"))


def test_the_command_prints_what_was_recognised(tmp_path: Path) -> None:
    folder = pretrained(tmp_path, peer_segformer())
    result = CliRunner().invoke(main, ["convert", str(folder), str(tmp_path / "out"), "--labels", "numbered"])
    assert result.exit_code == 0, result.output
    assert "layout: transformers, older names, with config.json" in result.output
    assert "tasks: semantic" in result.output
    counted = CliRunner().invoke(main, ["flops", "640x480", "--checkpoint", str(tmp_path / "out")])
    assert "baseline: the network as published" in counted.output
