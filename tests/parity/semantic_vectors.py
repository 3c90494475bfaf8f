"""Compare SegFormer, SETR and SegViT with reference outputs: cases whose JSON names a `system`.

The published form and the short one are both compared, each with every tensor that the case holds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.parity.report import Report, difference
from torch import Tensor

from proscale.checkpoints.mmseg_vit_names import from_mmseg_vit
from proscale.checkpoints.segformer_names import from_segformer
from proscale.checkpoints.strict_loading import load_strictly
from proscale.config import (
    MixTransformerConfig,
    PostprocessConfig,
    PreprocessConfig,
    SegformerHeadConfig,
    SegvitHeadConfig,
    SemanticModelConfig,
    SetrHeadConfig,
    SlideConfig,
    VitConfig,
)
from proscale.heads.setr import SetrHead
from proscale.postprocess.class_map import best_logits, output_map
from proscale.postprocess.found import Frames
from proscale.postprocess.rows import score_map
from proscale.postprocess.semantic import best_classes
from proscale.predictions import DensePrediction, QueryPrediction
from proscale.preprocess import normalise_and_pad
from proscale.semantic_network import SemanticNetwork

TOLERANCE = {"segformer": 2e-5, "setr": 2e-5, "segvit": 3e-5}
"""Largest absolute difference, float32; looser would hide a wrong epsilon."""
TIE = 1e-4
"""Pixels may differ where the two best classes are nearer than this."""


def semantic_config(case: Mapping[str, Any], name: str) -> SemanticModelConfig:
    """The network that a case's JSON describes."""
    slide = SlideConfig(tuple(case["crop"]), tuple(case["stride"])) if "crop" in case else None
    pixels = PreprocessConfig(size_divisor=1, mean=tuple(case["mean"]), std=tuple(case["std"]), align="none")
    twice = PostprocessConfig(resize_twice=case["layout"] == "mmseg")
    if case["system"] == "segformer":
        channels = tuple(case.get("hidden_sizes", [case.get("dim", 0) * factor for factor in (1, 2, 5, 8)]))
        eps = case["layer_norm_eps"]
        backbone = MixTransformerConfig(channels, tuple(case["depths"]), norm_eps=eps, inner_norm_eps=eps)
        variant = case.get("head_variant", case.get("head"))
        head = SegformerHeadConfig(case.get("head_dim", case.get("head")), variant)
        return SemanticModelConfig(name, case["classes"], backbone, head, slide, pixels, twice)
    vit = VitConfig(
        dim=case["dim"],
        layers=case["layers"],
        heads=case["heads"],
        mlp_dim=4 * case["dim"],
        grid=(case["grid"][0] // 16, case["grid"][1] // 16),
        position=case["mode"],
        class_token=case["cls"],
        patch_bias=case.get("patch_bias", False),
        norm_eps=case["layer_norm_eps"],
        taps=tuple(case["taps"]),
    )
    if case["system"] == "segvit":
        return SemanticModelConfig(
            name, case["classes"], vit, SegvitHeadConfig(case["atm_dim"], case["atm_heads"], case["atm_layers"]), slide, pixels
        )
    setr = SetrHeadConfig(case["kind"], case.get("mla", case.get("head")), case.get("mla_head", 1))
    return SemanticModelConfig(name, case["classes"], vit, setr, slide, pixels, twice)


def semantic_state(case: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A case's weights under our names."""
    if case["system"] == "segformer":
        layouts = {"hub": "transformers, older names", "mmseg": "mmsegmentation"}
        return from_segformer(weights, layouts.get(case["layout"], case["layout"]))
    return from_mmseg_vit(weights, case["system"], case["cls"])


def check_semantic(path: Path) -> Report:
    """Build the network of PATH (NAME.json), run both of its forms and compare everything that the tensors hold."""
    case, report = json.loads(path.read_text()), Report(path.stem)
    reference = load_file(path.with_suffix(".tensors.safetensors"))
    config = semantic_config(case, path.stem)
    network = SemanticNetwork(config).eval()
    load_strictly(network, semantic_state(case, load_file(path.with_suffix(".weights.safetensors"))))
    size, limit = tuple(case["resized"]), TOLERANCE[case["system"]]
    image = normalise_and_pad(reference["image_uint8"].numpy(), size, config.preprocess)[None]
    with torch.inference_mode():
        first = image if config.slide is None else image[:, :, : config.slide.crop[0], : config.slide.crop[1]]
        features = network.backbone(first)
        for i, ours in enumerate(features):
            if f"features.{i}" in reference:
                report.add(f"features {i}", difference(ours, reference[f"features.{i}"]), limit)
        if isinstance(network.head, SetrHead) and config.head.variant == "mla":
            for i, ours in enumerate(network.head.aggregate(features)):
                report.add(f"neck {i}", difference(ours, reference[f"neck.{i}"]), limit)
        published, short = network(first), network.head.fold()(features)
        for form, said in (("published", published), ("short", short)):
            _compare_head(report, form, said, reference, limit)
        _compare_results(report, case, config, network, image, reference, limit)
    return report


def _compare_head(
    report: Report, form: str, said: DensePrediction | QueryPrediction, reference: Mapping[str, Tensor], limit: float
) -> None:
    if isinstance(said, QueryPrediction):
        report.add(f"class logits, {form}", difference(said.class_logits, reference["pred_logits"]), limit)
        report.add(f"mask logits, {form}", difference(said.mask_logits, reference["pred_masks"]), limit)
        return
    expected = reference["logits" if "logits" in reference else "head_logits"]
    size = (said.upscale * said.logits.shape[2], said.upscale * said.logits.shape[3])
    logits = torch.nn.functional.interpolate(said.logits, size, mode="bilinear", align_corners=False) if said.upscale > 1 else said.logits
    report.add(f"logits, {form}", difference(logits, expected), limit)


def _compare_results(
    report: Report,
    case: Mapping[str, Any],
    config: SemanticModelConfig,
    network: SemanticNetwork,
    image: Tensor,
    reference: Mapping[str, Tensor],
    limit: float,
) -> None:
    said = network.predict(image)
    size = (image.shape[2], image.shape[3])
    frames = Frames(size, size, tuple(case["output"]))
    kind = "scores" if case["system"] == "segvit" else "logits"
    if f"{kind}_sample" in reference:
        scores = score_map(said, size)
        report.add(f"{kind} at input size", difference(scores.rows(0, size[0])[None, :, ::2, ::2], reference[f"{kind}_sample"]), limit)
    source = output_map(said, frames, config.postprocess.resize_twice)
    scores = source.rows(0, frames.output[0])  # type: ignore[assignment]
    report.add(f"{kind} at output size", difference(scores[:, ::4, ::4], reference[f"output_{kind}_sample"]), limit)
    winner, _ = (best_classes if kind == "scores" else best_logits)([scores])  # type: ignore[list-item]
    best = scores.topk(2, 0).values  # type: ignore[attr-defined]
    clear = (best[0] - best[1]) > TIE
    wrong = (winner != reference["semantic"].long()) & clear
    report.add("pixels of another class", wrong.sum().item(), 0)
    strips = torch.cat([source.rows(start, min(start + 7, frames.output[0])) for start in range(0, frames.output[0], 7)], 1)
    report.add("strip by strip", difference(strips, scores), limit)
