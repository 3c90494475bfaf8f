"""transformers' Mask2Former as the peer that conversions are held to: random networks, and what both compute."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

from proscale.network import SegmentationNetwork
from proscale.transformer_decoder import TransformerDecoder

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN_T = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12}
RESNET_50 = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]}
TINY_SWIN = {"embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 3}
TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 1, 1, 1]}
SMALL_HEAD = {
    "encoder_layers": 2,
    "decoder_layers": 5,
    "num_queries": 12,
    "hidden_dim": 64,
    "feature_size": 64,
    "mask_feature_size": 64,
    "encoder_feedforward_dim": 48,
    "dim_feedforward": 80,
}
"""Everything small and of different sizes, so that no two tensors can be exchanged unseen."""


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences, and how far masks agree."""

    mask_features: float
    levels: float
    class_logits: float
    mask_logits: float
    """These two with the peer's attention masks: a mask bit at a tie turns on rounding, and logits with it."""
    iou: float
    """Of all mask pixels (logit > 0) of the batch, each network with its own attention masks."""


def backbone(kind: str, values: dict[str, Any]) -> SwinConfig | ResNetConfig:
    """transformers' configuration of a backbone, with the outputs that Mask2Former takes."""
    return (SwinConfig if kind == "swin" else ResNetConfig)(**values, out_features=STAGES)


def peer_network(kind: str, values: dict[str, Any], head: dict[str, Any], labels: int = 9) -> Mask2FormerForUniversalSegmentation:
    """A random network in evaluation mode; every tensor has been given values of its own, norms and biases too."""
    config = Mask2FormerConfig(backbone_config=backbone(kind, values), num_labels=labels, **head)
    network = Mask2FormerForUniversalSegmentation(config).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point() or name.startswith("criterion"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif "relative_position_bias_table" in name:
                tensor.copy_(noise)
            elif "sampling_offsets" in name or "attention_weights" in name:
                tensor.add_(0.1 * noise)
            else:
                tensor.add_(0.02 * noise)
    return network


def save_peer(network: Mask2FormerForUniversalSegmentation, folder: Path, **options: Any) -> Path:
    """`save_pretrained`, without its progress bar."""
    network.save_pretrained(folder, **options)
    return folder


def load_peer(folder: Path) -> Mask2FormerForUniversalSegmentation:
    """`from_pretrained` that fails when anything is missing, unexpected or of another shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network, report = Mask2FormerForUniversalSegmentation.from_pretrained(folder, output_loading_info=True)
    wrong = {key: value for key, value in report.items() if value}
    assert not wrong, wrong
    return network.eval()


@torch.inference_mode()
def compare(peer: Mask2FormerForUniversalSegmentation, ours: SegmentationNetwork, pixels: Tensor) -> Difference:
    """Run both on (B, 3, H, W) and compare what the decoder gets and what it makes of it."""
    features = peer.model.pixel_level_module(pixels)
    theirs = peer(pixel_values=pixels, output_auxiliary_logits=True)
    own = ours.eval()(pixels)
    levels = zip(own.levels, features.decoder_hidden_states, strict=True)
    masks, their_masks = own.mask_logits > 0, theirs.masks_queries_logits > 0
    steps = iter(prediction["masks_queries_logits"] for prediction in theirs.auxiliary_logits)
    decoder = ours.transformer_decoder
    decoder.attention_mask = lambda _, size: TransformerDecoder.attention_mask(next(steps), size)  # type: ignore[assignment, method-assign]
    try:
        led = decoder(own.levels, own.mask_features)[-1]
    finally:
        del decoder.attention_mask
    assert next(steps, None) is None, "transformers has more decoder layers than we"
    return Difference(
        mask_features=_largest(own.mask_features, features.decoder_last_hidden_state),
        levels=max(_largest(mine, its) for mine, its in levels),
        class_logits=_largest(led.class_logits, theirs.class_queries_logits),
        mask_logits=_largest(led.mask_logits, theirs.masks_queries_logits),
        iou=((masks & their_masks).sum() / (masks | their_masks).sum().clamp_min(1)).item(),
    )


def _largest(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return (ours - theirs).abs().max().item()
