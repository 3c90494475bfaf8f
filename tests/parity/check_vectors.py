"""Compare our networks with reference outputs: every NAME.json in a folder, and its `semantic/` and `postprocess/` cases.

    python tests/parity/check_vectors.py DIR

A case is NAME.json (configuration), NAME.weights.safetensors (a published layout's names) and NAME.tensors.safetensors (picture, outputs).
Exits 1 when a case is outside the tolerance, 2 when DIR holds no case.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, the tests' own modules lie there

from tests.parity.report import Report, difference, relative_difference, share_differing
from tests.parity.semantic_vectors import check_semantic

from proscale.checkpoints.detectron2_names import from_detectron2
from proscale.checkpoints.strict_loading import load_strictly
from proscale.config import (
    Mask2FormerEncoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    PreprocessConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from proscale.network import SegmentationNetwork
from proscale.postprocess.instance import instance_inference
from proscale.postprocess.panoptic import panoptic_inference
from proscale.postprocess.resize import resize_mask_logits
from proscale.postprocess.semantic import semantic_inference
from proscale.preprocess import normalise_and_pad

TOLERANCE = 5e-5
"""Largest absolute difference of mask_features, class logits and mask logits, float32."""
TIES = 2e-4
"""Largest share of pixels that may differ in a map or mask: pixels where two values are equal but for rounding."""


def model_config(case: Mapping[str, Any], name: str) -> ModelConfig:
    """The network that a case's JSON describes."""
    encoder = (
        Mask2FormerEncoderConfig(case["encoder_layers"])
        if case["encoder"] == "mask2former"
        else ProScaleEncoderConfig(tuple(case["proscale_layers"]), case["excite"], case["excite_temperature"], case["residual"])
    )
    if case["backbone"] == "swin":
        swin = case["swin"]
        backbone: SwinConfig | ResNetConfig = SwinConfig(swin["embed_dim"], tuple(swin["depths"]), tuple(swin["heads"]), swin["window"])
    else:
        resnet = case["resnet"]
        if resnet["stride_in_1x1"] or resnet["norm"] != "FrozenBN":
            raise ValueError(f"{name}: only ResNets with stride in the 3x3 convolution and FrozenBN are supported")
        backbone = ResNetConfig(resnet["stem"], resnet["res2_out"], resnet["bottleneck"], tuple(resnet["blocks"]))
    return ModelConfig(
        name=name,
        classes=case["classes"],
        backbone=backbone,
        pixel_decoder=PixelDecoderConfig(
            encoder, case["hidden_dim"], case["heads"], case["points"], case["encoder_ffn"], case["mask_output_op"]
        ),
        transformer_decoder=TransformerDecoderConfig(case["decoder_layers"], case["queries"], case["decoder_ffn"], case["heads"]),
    )


def match_instances(masks: Tensor, classes: Tensor, scores: Tensor, reference: Mapping[str, Tensor]) -> tuple[int, float, float]:
    """Pair our instances with the reference's, which come in no order: same class, nearest score and mask.

    Returns:
        how many found no partner, the largest score difference, the largest share of differing mask pixels.
    """
    free = list(range(len(classes)))
    unmatched, worst_score, worst_mask = abs(len(classes) - len(reference["instance_classes"])), 0.0, 0.0
    for mask, label, score in zip(reference["instance_masks"], reference["instance_classes"], reference["instance_scores"], strict=True):
        candidates = [((scores[i] - score).abs().item() + share_differing(masks[i], mask), i) for i in free if classes[i] == label]
        if not candidates:
            unmatched += 1
            continue
        _, best = min(candidates)
        free.remove(best)
        worst_score = max(worst_score, (scores[best] - score).abs().item())
        worst_mask = max(worst_mask, share_differing(masks[best], mask))
    return unmatched, worst_score, worst_mask


def compare_results(
    report: Report, case: Mapping[str, Any], class_logits: Tensor, mask_logits: Tensor, reference: Mapping[str, Tensor]
) -> None:
    """Post-process (Q, K + 1) and (Q, h, w) logits and compare the three results."""
    masks = resize_mask_logits(mask_logits, case["padded"], case["resized"], case["output"])
    is_thing = [index in case["thing_classes"] for index in range(case["classes"])]
    ids, segments = panoptic_inference(
        class_logits, lambda kept: masks[kept], case["output"], is_thing, case["object_mask_threshold"], case["overlap_threshold"]
    )
    report.add("panoptic pixels", share_differing(ids, reference["panoptic"]), TIES)
    ours = [{"id": s.id, "isthing": is_thing[s.class_index], "category_id": s.class_index} for s in segments]
    report.require("panoptic segments", ours == case["segments_info"], f"{ours} != {case['segments_info']}")

    scores = semantic_inference(class_logits, masks)
    report.add("semantic pixels", share_differing(scores.argmax(0), reference["semantic_argmax"].long()), TIES)
    if "semantic_scores_sample" in reference:
        report.add("semantic scores", difference(scores[:, ::8, ::8], reference["semantic_scores_sample"]), TOLERANCE)

    unmatched, score, mask = match_instances(
        *instance_inference(class_logits, lambda queries: masks[queries], case["output"], is_thing, case["topk"]), reference
    )
    report.add("instances without partner", unmatched, 0)
    report.add("instance scores", score, TOLERANCE)
    report.add("instance mask pixels", mask, TIES)


def check_network(path: Path) -> Report:
    """Build the network of PATH (NAME.json), run it and compare everything that the tensors hold."""
    case, report = json.loads(path.read_text()), Report(path.stem)
    reference = load_file(path.with_suffix(".tensors.safetensors"))
    config = model_config(case, path.stem)
    network = SegmentationNetwork(config).eval()
    load_strictly(network, from_detectron2(load_file(path.with_suffix(".weights.safetensors"))))
    image = normalise_and_pad(reference["image_uint8"].numpy(), tuple(case["padded"]), PreprocessConfig())[None]
    with torch.inference_mode():
        features = network.backbone(image)
        output, short = network(image), network.predict(image)
        for level, ours in zip(("res2", "res3", "res4", "res5"), features, strict=True):
            if f"features.{level}" in reference:
                report.add(f"backbone {level}", relative_difference(ours, reference[f"features.{level}"]), TOLERANCE)
        for i, ours in enumerate(output.levels):
            if f"multi_scale.{i}" in reference:
                report.add(f"encoder level {i}", difference(ours, reference[f"multi_scale.{i}"]), TOLERANCE)
        report.add("mask_features", difference(output.mask_features, reference["mask_features"]), TOLERANCE)
        report.add("pred_logits", difference(output.class_logits, reference["pred_logits"]), TOLERANCE)
        report.add("pred_masks", difference(output.mask_logits, reference["pred_masks"]), TOLERANCE)
        report.add("pred_logits, short way", difference(short.class_logits, reference["pred_logits"]), TOLERANCE)
        report.add("pred_masks, short way", difference(short.mask_logits, reference["pred_masks"]), TOLERANCE)
        compare_results(report, case, short.class_logits[0], short.mask_logits[0], reference)
    return report


def check_postprocess(path: Path) -> Report:
    """Compare the three results for the logits in a `postprocess/` case."""
    case, report = json.loads(path.read_text()), Report(f"postprocess/{path.stem}")
    reference = load_file(path.with_suffix(".safetensors"))
    with torch.inference_mode():
        compare_results(report, case, reference["pred_logits"][0].float(), reference["pred_masks"][0].float(), reference)
    return report


def check_folder(folder: Path) -> Iterator[Report]:
    """Every case of a folder, networks first."""
    for path in sorted([*folder.glob("*.json"), *(folder / "semantic").glob("*.json")]):
        yield check_semantic(path) if "system" in json.loads(path.read_text()) else check_network(path)
    for path in sorted((folder / "postprocess").glob("*.json")):
        yield check_postprocess(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what differs, case by case; 0 when all is within tolerance, 1 when not, 2 without cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder laid out as described above")
    folder: Path = parser.parse_args(arguments).folder
    count, failures = 0, []
    for report in check_folder(folder):
        count += 1
        print(f"{report.name}: {'FAILED' if report.failed else 'ok'}", *report.lines, sep="\n", flush=True)
        if report.failed:
            failures.append(report.name)
    if not count:
        print(f"no cases (NAME.json) in {folder}", file=sys.stderr)
        return 2
    print(f"{count - len(failures)} of {count} cases within tolerance" + (f"; FAILED: {', '.join(failures)}" if failures else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
